"""Owns `timeline.html` as bytes: template, style, script and data in one file; must not know what is in the data.

Nothing is loaded from anywhere, and nothing that a rank wrote becomes markup: the script has its data from a JSON
block, in which no tag can begin, and makes text nodes of it. Should that ever fail, the page's own policy lets no other
script or style run than the two in it, by their digests.
"""

import json
from collections.abc import Mapping
from importlib.resources import files

from pytest_megacpp.recording.events import Json
from pytest_megacpp.report.policy import source

_IN_A_SCRIPT = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def html(data: Mapping[str, Json]) -> bytes:
    """The page. Raises what jinja2 raises, if its template is broken."""
    import jinja2  # only a run that ends needs these
    import markupsafe

    style, script = _part("page.css"), "\n".join(_part(name) for name in ("dom.js", "lanes.js", "page.js"))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(_part("page.html.j2"))
    safe = markupsafe.Markup  # not escaped
    page = template.render(
        policy=_policy(style, script),
        style=safe(style),
        script=safe(script),
        data=safe(in_a_script(data)),
        run=data["run"],
        tests=data["tests"],
    )
    return page.encode("utf-8", "backslashreplace")


def in_a_script(data: Mapping[str, Json]) -> str:
    """JSON that may stand in a script element: no tag begins or ends in it."""
    return json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False).translate(_IN_A_SCRIPT)


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; script-src '{source(script)}'; style-src '{source(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _part(name: str) -> str:
    return files("pytest_megacpp.report.page").joinpath(name).read_text(encoding="utf-8")
