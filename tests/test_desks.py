"""Desks on macOS and Windows, read from the source: nothing on their way names what those systems lack. That such a
desk runs is in tests/plugin/test_other_desks.py, and its types are mypy's business (`nox -s types`).
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.platforms import DARWIN, OTHERS, WINDOWS, desk_modules, is_lacking, lacking, reachable
from tests.test_layers import MODULES, imported

CASES = [(platform, module) for platform in OTHERS for module in sorted(desk_modules(platform))]
# What exists on Windows and does something else: a signal of any number ends the process; links take a privilege; other
# sessions, process groups and what runs between fork and exec there are none.
OTHERWISE = {WINDOWS: {("os", "kill"), ("os", "symlink"), ("os", "link")}, DARWIN: set[tuple[str, str]]()}
NO_SUCH_ARGUMENT = {"start_new_session", "preexec_fn", "process_group", "pass_fds"}
TEXT_READERS = {"read_text", "write_text"}


def wrong_names(path: Path, platform: str) -> Iterator[str]:
    """`os.fork (line 7)`: what a system lacks, and the module reaches there."""
    nodes = list(reachable(path, platform))
    modules = dict(_module_names(nodes))
    for name in imported(nodes, path):
        module, _, attribute = name.rpartition(".")
        if is_lacking(name.partition(".")[0], platform) or attribute in lacking(module or "builtins", platform):
            yield f"import of {name}"
    for node in nodes:
        match node:
            case ast.Attribute(value=ast.Name(id=at), attr=name) if at in modules:
                is_wrong = name in lacking(modules[at], platform) or (modules[at], name) in OTHERWISE[platform]
                if is_wrong and not _is_asked_for(node, nodes):
                    yield f"{modules[at]}.{name} (line {node.lineno})"
            case ast.Call(keywords=keywords) if platform == WINDOWS:
                yield from (f"{k.arg} (line {node.lineno})" for k in keywords if k.arg in NO_SUCH_ARGUMENT)
            case _:
                pass


def _module_names(nodes: list[ast.AST]) -> Iterator[tuple[str, str]]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.asname or alias.name, alias.name) for alias in node.names)


def _is_asked_for(node: ast.Attribute, nodes: list[ast.AST]) -> bool:
    """Whether the module asks first: `if hasattr(os, "sched_getaffinity"):`."""
    wanted = f"hasattr({ast.unparse(node.value)}, {node.attr!r})"
    return any(isinstance(n, ast.If) and ast.unparse(n.test) == wanted and node in ast.walk(n) for n in nodes)


@pytest.mark.parametrize(("platform", "module"), CASES)
def test_a_desk_needs_nothing_that_its_system_lacks(platform: str, module: str) -> None:
    assert list(wrong_names(MODULES[module], platform)) == []


def test_what_a_box_needs_is_on_no_other_desk_s_way() -> None:
    for platform in OTHERS:
        there = desk_modules(platform)
        assert {"plugin", "desk.commands.cli", "surfaces.modal.surface", "box.asked"} <= there
        assert not there & {"surfaces.local.surface", "box.main", "box.host.process", "rank.session"}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import fcntl", {WINDOWS: ["import of fcntl"], DARWIN: []}),
        ("from os import fork", {WINDOWS: ["import of os.fork"], DARWIN: []}),
        ("import os\nos.posix_fallocate", {p: ["os.posix_fallocate (line 2)"] for p in OTHERS}),
        ("import os\nos.kill(1, 0)", {WINDOWS: ["os.kill (line 2)"], DARWIN: []}),
        ("import os as o\ndef f(n=o.O_NOFOLLOW): pass", {WINDOWS: ["os.O_NOFOLLOW (line 2)"], DARWIN: []}),
        ("import os, sys\nif sys.platform == 'linux':\n os.pidfd_open\nelse:\n os.name", {p: [] for p in OTHERS}),
        ("import os, sys\nif sys.platform != 'linux':\n raise OSError\nos.pidfd_open", {p: [] for p in OTHERS}),
        ("import os, sys\nassert sys.platform == 'linux'\nos.pidfd_open", {p: [] for p in OTHERS}),
        ("import os, sys\nif sys.platform == 'win32':\n pass\nos.fork", {WINDOWS: ["os.fork (line 4)"], DARWIN: []}),
        ("import os\nif hasattr(os, 'pidfd_open'):\n os.pidfd_open", {p: [] for p in OTHERS}),
        ("import subprocess as s\ns.run([], preexec_fn=1)", {WINDOWS: ["preexec_fn (line 2)"], DARWIN: []}),
    ],
)
def test_what_a_system_lacks_is_found(source: str, found: dict[str, list[str]], tmp_path: Path) -> None:
    path = tmp_path / "it.py"
    path.write_text(source, encoding="utf-8")
    assert {platform: list(wrong_names(path, platform)) for platform in OTHERS} == found


# -- texts and files -------------------------------------------------------------------------------------------------


def texts_by_default(path: Path) -> Iterator[str]:
    """Calls that read or write texts in the encoding, or write them with the line ends, of the system."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        keywords = {k.arg: k.value for k in node.keywords}
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        mode = _mode(node, name) if name in ("open", "fdopen") else None
        is_text = name in TEXT_READERS and _owner(node) != "distribution"  # metadata are UTF-8
        is_text |= (mode is not None and "b" not in mode) or ("text" in keywords and _owner(node) == "subprocess")
        if None in keywords or not is_text:  # what `**` brings isn't read here
            continue
        if "encoding" not in keywords:
            yield f"{name} without encoding (line {node.lineno})"
        if (name == "write_text" or (mode and set(mode) & set("wax"))) and "newline" not in keywords:
            yield f"{name} without newline (line {node.lineno})"


def _owner(call: ast.Call) -> str:
    return ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""


def _mode(call: ast.Call, name: str) -> str | None:
    """The mode of a file that is opened; None of a descriptor."""
    if _owner(call) in ("os", "tarfile", "archive"):
        return None if name == "open" else _constant(call.args[1:2])
    is_method = isinstance(call.func, ast.Attribute) and name == "open"
    named = [k.value for k in call.keywords if k.arg == "mode"]
    return _constant(named or call.args[0 if is_method else 1 :][:1])


def _constant(arguments: list[ast.expr]) -> str:
    """What isn't written there counts as binary: it isn't known."""
    return "r" if not arguments else str(ast.literal_eval(arguments[0])) if _is_text(arguments[0]) else "b"


def _is_text(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


@pytest.mark.parametrize("module", sorted(desk_modules(WINDOWS)))
def test_texts_are_the_same_on_every_system(module: str) -> None:
    assert list(texts_by_default(MODULES[module])) == []


def test_texts_of_a_system_are_found(tmp_path: Path) -> None:
    path = tmp_path / "it.py"
    path.write_text(
        "open(p)\nopen(p, 'rb')\np.open('w', encoding='utf-8')\np.read_text()\nsubprocess.run(text=True)\n"
        "os.open(p, 1)\np.write_text(t, encoding='utf-8', newline='')\n",
        encoding="utf-8",
    )
    assert list(texts_by_default(path)) == [
        "open without encoding (line 1)",
        "open without newline (line 3)",
        "read_text without encoding (line 4)",
        "run without encoding (line 5)",
    ]
