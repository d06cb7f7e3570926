"""Test files that are read instead of imported: the same tests as pytest finds where they can be imported."""

import textwrap

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from pytest_megacpp.desk.source.keywords import words_to_match
from pytest_megacpp.desk.source.missing import missing
from pytest_megacpp.desk.source.nodes import is_open, marks_without_arguments, module_of
from tests.fuzzing import fuzzer

pytest_plugins = "pytester"


@pytest.fixture(autouse=True)
def few_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


ABSENT = "import absent_module_of_the_box"
PRESENT = "import json                   "


class Collecting:
    """A plugin that keeps what a session collected, also the reports."""

    def __init__(self) -> None:
        self.items: list[pytest.Item] = []
        self.failed: list[str] = []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.items = list(session.items)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed.append(str(report.longrepr))


def collect(pytester: pytest.Pytester, *args: str) -> Collecting:
    found = Collecting()
    plugins = ("-p", "pytest_megacpp.plugin", "-p", "no:terminal")
    pytester.inline_run("--collect-only", *plugins, *args, plugins=[found])
    return found


def described(items: list[pytest.Item], file: str) -> list[tuple[object, ...]]:
    """Name, place and marks of the tests of a file."""
    return [
        (
            item.nodeid.partition("::")[2],
            item.location[1:],
            [(mark.name, repr(mark.args), repr(sorted(mark.kwargs.items()))) for mark in item.iter_markers()],
        )
        for item in items
        if item.nodeid.startswith(file)
    ]


def both(pytester: pytest.Pytester, body: str) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """What pytest finds in a file that it imports, and in the same one when something is missing."""
    for name, first in (("test_real.py", PRESENT), ("test_read.py", ABSENT)):
        pytester.path.joinpath(name).write_text(f"{first}\n{body}")
    found = collect(pytester, "-m", "h200x8", "test_real.py", "test_read.py")
    assert not found.failed
    assert all(module_of(item) is not None for item in found.items if item.nodeid.startswith("test_read.py"))
    return described(found.items, "test_real.py"), described(found.items, "test_read.py")


# -- generated files ---------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c"])
LITERALS = st.one_of(
    st.integers(-3, 12),
    st.floats(allow_nan=False, width=16),
    st.booleans(),
    st.none(),
    st.text("aé[]:-/ \\\n\x00", max_size=4),
    st.binary(max_size=2),
    st.tuples(st.integers(0, 3)),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.text("k", max_size=1), st.integers(0, 3), max_size=1),
)


@st.composite
def a_value(draw: st.DrawFn) -> str:
    value = repr(draw(LITERALS))
    match draw(st.integers(0, 6)):
        case 0:
            return f"pytest.param({value}, id={draw(st.sampled_from(['x', 'y', 'a b']))!r})"
        case 1:
            return f"pytest.param({value}, marks=pytest.mark.slow)"
        case 2:
            return f"pytest.param({value}, marks=[pytest.mark.slow, pytest.mark.h200x8(ranks=2)])"
        case 3:
            return draw(st.sampled_from(["ONE", "-ONE", "ONE + 1", "2 * WORD", "WORD"]))
        case _:
            return value


@st.composite
def a_parametrize(draw: st.DrawFn, name: str) -> str:
    values = draw(st.lists(a_value(), max_size=3))
    given_values = draw(st.sampled_from([f"[{', '.join(values)}]", "SIZES", "range(2)", "[*SIZES, 7]"]))
    ids = ""
    if given_values.startswith("[") and "SIZES" not in given_values and draw(st.booleans()):
        named = [repr(draw(st.sampled_from(["i", "j", None, 3, True, 0.5]))) for _ in values]
        ids = f", ids=[{', '.join(named)}]"
    spelt = draw(st.sampled_from([f"'{name}'", f"('{name}',)", f"['{name}']"]))
    if spelt != f"'{name}'":
        return f"@pytest.mark.parametrize({spelt}, [({draw(st.integers(0, 3))},), ({draw(st.integers(0, 3))},)])"
    return f"@pytest.mark.parametrize({spelt}, {given_values}{ids})"


MARKS = st.sampled_from(
    [
        "@lane",
        "@lane4",
        "@pytest.mark.h200x8",
        "@pytest.mark.h200x8(ranks=ONE, stall=2 * 5)",
        "@mark.slow",
        "@pytest.mark.skipif(False, reason='x')",
        "@pytest.mark.usefixtures('plain')",
    ]
)


@st.composite
def a_function(draw: st.DrawFn, number: int, method: bool) -> list[str]:
    names = draw(st.lists(NAMES, unique=True, max_size=2))
    fixtures = draw(st.lists(st.sampled_from(["plain", "many", "modal_h200x8"]), unique=True, max_size=2))
    decorators = [draw(a_parametrize(name)) for name in names] + draw(st.lists(MARKS, max_size=2))
    arguments = [*(["self"] if method else []), *names, *fixtures, *(["extra=(1 / 1)"] if draw(st.booleans()) else [])]
    title = draw(st.sampled_from(["test", "test", "test", "helper"]))
    kind = draw(st.sampled_from(["def", "def", "async def"]))
    return [*decorators, f"{kind} {title}_{number}({', '.join(arguments)}) -> 'int':", "    raise SystemExit(1)", ""]


@st.composite
def a_class(draw: st.DrawFn, number: int) -> list[str]:
    name = draw(st.sampled_from(["Test", "Test", "Helper"]))
    base = draw(st.sampled_from(["", "", "(object)", "(Base)"]))
    lines = [*draw(st.lists(MARKS, max_size=1)), f"class {name}{number}{base}:"]
    if draw(st.booleans()):
        lines.append(f"    pytestmark = {draw(st.sampled_from(['lane', '[lane, mark.slow]', '[]']))}")
    for n in range(draw(st.integers(1, 2))):
        lines += [f"    {line}" if line else "" for line in draw(a_function(n, True))]
    return lines


HEAD = """
import pytest
from pytest import mark

lane = pytest.mark.h200x8
lane4: object = mark.h200x8(ranks=4)
ONE, = [1]
ONE = 1
WORD = "w"
SIZES = [1, 2]
__test__ = True

@pytest.fixture
def plain(): ...

@pytest.fixture(params=[1, pytest.param(2, id="two")], scope="module")
def many(request): ...

class Base:
    @pytest.mark.parametrize("z", (1, 2))
    def test_of_base(self, z): ...
"""


@st.composite
def a_file(draw: st.DrawFn) -> str:
    lines = [*HEAD.splitlines()]
    if draw(st.booleans()):
        lines.append(f"pytestmark = {draw(st.sampled_from(['lane', '[lane4, mark.slow]', '[]']))}")
    for number in range(draw(st.integers(1, 4))):
        lines += draw(st.one_of(a_function(number, False), a_class(number)))
    return "\n".join([*lines, "@lane", "def test_of_the_lane(): ...", ""])


@fuzzer(8, deadline=None, suppress_health_check=list(HealthCheck))
@given(a_file())
def test_what_is_read_is_what_pytest_finds(pytester: pytest.Pytester, body: str) -> None:
    imported, read = both(pytester, body)
    assert imported
    assert read == imported


# -- what the source does not tell -------------------------------------------------------------------------------------


def read_lane_file(pytester: pytest.Pytester, body: str, *args: str) -> Collecting:
    head = f"{ABSENT}\nimport pytest\nlane = pytest.mark.h200x8\n"
    pytester.path.joinpath("test_read.py").write_text(head + textwrap.dedent(body))
    return collect(pytester, "-m", "h200x8", *(args or ("test_read.py",)))


def names(found: Collecting) -> list[str]:
    """Of the selected tests; an open one ends with dots."""
    return [f"{item.nodeid.partition('::')[2]}{' …' * is_open(item)}" for item in found.items]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("@lane\n@pytest.mark.parametrize('n', absent.N)\ndef test_a(n): ...", ["test_a …"]),
        ("@lane\n@pytest.mark.parametrize('n', [i for i in (1, 2)])\ndef test_a(n): ...", ["test_a …"]),
        ("@lane\n@pytest.mark.parametrize('n', [1], ids=str)\ndef test_a(n): ...", ["test_a …"]),
        (
            "@lane\n@pytest.mark.parametrize('m', [1, 2])\n@pytest.mark.parametrize('n', absent.N)\n"
            "def test_a(m, n): ...",
            ["test_a …"],
        ),
        ("N = [1]\nN.append(2)\n@lane\n@pytest.mark.parametrize('n', N)\ndef test_a(n): ...", ["test_a …"]),
        ("N = [1]\nM = N\nM += [2]\n@lane\n@pytest.mark.parametrize('n', N)\ndef test_a(n): ...", ["test_a[1]"]),
        ("N = [1]\nabsent.fill(N)\n@lane\n@pytest.mark.parametrize('n', N)\ndef test_a(n): ...", ["test_a …"]),
        ("N = 1\nN += 1\n@lane\n@pytest.mark.parametrize('n', [N])\ndef test_a(n): ...", ["test_a …"]),
        ("if absent:\n    N = 1\n@lane\n@pytest.mark.parametrize('n', [N])\ndef test_a(n): ...", ["test_a …"]),
        ("for N in (1, 2): pass\n@lane\n@pytest.mark.parametrize('n', [N])\ndef test_a(n): ...", ["test_a …"]),
        ("@lane\n@absent.retried\ndef test_a(): ...", ["test_a …"]),
        ("@lane\ndef test_a(fixture_of_the_box): ...", ["test_a …"]),
        ("@pytest.fixture(params=absent.N)\ndef f(): ...\n@lane\ndef test_a(f): ...", ["test_a …"]),
        ("@pytest.fixture(params=absent.N)\ndef f(): ...\n@pytest.fixture\ndef g(f): ...\n@lane\ndef test_a(g): ...",
         ["test_a …"]),
        ("@lane\ndef test_a(): ...\nif absent:\n    @lane\n    def test_b(): ...", ["test_a", "test_b"]),
        ("if absent:\n    @lane\n    def test_a(): ...\nelse:\n    @lane\n    def test_a(x): ...", ["test_a …"]),
        ("try:\n    @lane\n    def test_a(): ...\nexcept ImportError: pass", ["test_a"]),
        ("import typing\nif typing.TYPE_CHECKING:\n    @lane\n    def test_a(): ...\n@lane\ndef test_b(): ...",
         ["test_b"]),
        ("@lane\ndef test_a(): ...\ntest_a = absent.wrap(test_a)", ["test_a …"]),
        ("@lane\ndef test_a(): ...\n@lane\ndef test_b(): ...\ndel test_a", ["test_b"]),
        ("@lane\ndef test_a(): ...\ndef pytest_generate_tests(metafunc): ...", ["test_a …"]),
        ("pytestmark = [lane, absent.mark]\ndef test_a(): ...", ["test_a …"]),
        ("@lane\nclass TestA(absent.Case):\n    def test_b(self): ...", ["TestA …"]),
        ("class Base(absent.Case): ...\n@lane\nclass TestA(Base):\n    def test_b(self): ...", ["TestA …"]),
        ("@lane\n@absent.each\nclass TestA:\n    def test_b(self): ...", ["TestA …"]),
        ("class TestA:\n    N = 3\n    @lane\n    @pytest.mark.parametrize('n', [N])\n    def test_b(self, n): ...",
         ["TestA::test_b[3]"]),
        ("class TestA:\n    @lane\n    class TestB:\n        @absent.x\n        def test_c(self): ...",
         ["TestA::TestB::test_c …"]),
        ("class Net(absent.Module):\n    def test_x(self): ...\n@lane\ndef test_a(): ...", ["test_a"]),
        ("@lane\nclass TestA:\n    def __init__(self): ...\n    def test_b(self): ...\n@lane\ndef test_a(): ...",
         ["test_a"]),
    ],
)  # fmt: skip
def test_a_test_whose_cases_are_not_in_the_source_is_one(
    pytester: pytest.Pytester, body: str, expected: list[str]
) -> None:
    found = read_lane_file(pytester, body)
    assert names(found) == expected
    assert not found.failed


def test_a_condition_that_cannot_be_read_is_left_to_the_box(pytester: pytest.Pytester) -> None:
    found = read_lane_file(pytester, "@lane\n@pytest.mark.skipif(absent.x(), reason='y')\ndef test_a(): ...")
    (item,) = found.items
    assert [mark.args for mark in item.iter_markers("skipif")] == [(False,)]
    assert not is_open(item)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("@pytest.mark.h200x8(ranks=absent.N)\ndef test_a(): ...", {"h200x8"}),
        ("@lane\n@pytest.mark.timeout(absent.S)\nclass TestA:\n    def test_a(self): ...", {"timeout"}),
        ("pytestmark = [lane, pytest.mark.timeout(absent.S)]\ndef test_a(): ...", {"timeout"}),
        ("@pytest.mark.h200x8(ranks=2)\ndef test_a(): ...", set()),
    ],
)
def test_marks_without_their_arguments_are_known(pytester: pytest.Pytester, body: str, expected: set[str]) -> None:
    (item,) = read_lane_file(pytester, body).items
    assert marks_without_arguments(item) == expected


# -- how one selects ---------------------------------------------------------------------------------------------------

OPEN = """
@lane
@pytest.mark.parametrize("n", absent.N)
def test_a(n): ...

@lane
class TestA(absent.Case):
    def test_known(self): ...

@lane
def test_b(): ...
"""


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("test_read.py",), ["test_a …", "TestA …", "test_b"]),
        (("test_read.py::test_a",), ["test_a …"]),
        (("test_read.py::test_a[3-x::y]",), ["test_a[3-x::y]"]),
        (("test_read.py::test_a[3]", "test_read.py::test_b"), ["test_a[3]", "test_b"]),
        (("test_read.py::TestA",), ["TestA …"]),
        (("test_read.py::TestA::test_of_a_base[1]",), ["TestA::test_of_a_base[1]"]),
        (("-k", "test_b", "test_read.py"), ["TestA …", "test_b"]),
        (("-k", "3", "test_read.py"), ["test_a …", "TestA …"]),
        (("-k", "test_a and not 3", "test_read.py"), ["test_a …", "TestA …"]),
        (("-k", "not test_a and not TestA", "test_read.py"), ["test_b"]),
    ],
)
def test_tests_that_were_read_are_selected_as_others_are(
    pytester: pytest.Pytester, args: tuple[str, ...], expected: list[str]
) -> None:
    assert names(read_lane_file(pytester, OPEN, *args)) == expected


def test_a_mark_selects_what_was_read(pytester: pytest.Pytester) -> None:
    body = "@lane\n@pytest.mark.slow\ndef test_a(): ...\n@lane\ndef test_b(): ..."
    assert names(read_lane_file(pytester, body, "-m", "h200x8 and not slow", "test_read.py")) == ["test_b"]


def test_last_failed_names_cases_that_only_the_box_knew(pytester: pytest.Pytester) -> None:
    cache = pytester.path / ".pytest_cache/v/cache"
    cache.mkdir(parents=True)
    (cache / "lastfailed").write_text('{"test_read.py::test_a[7]": true}')
    assert names(read_lane_file(pytester, OPEN, "--lf", "test_read.py")) == ["test_a[7]"]


@pytest.mark.parametrize(
    ("expression", "known", "expected"),
    [
        ("a", {"test_a"}, ()),
        ("3", {"test_a"}, ("3",)),
        ("not 3", {"test_a"}, ()),
        ("a and (3 or not 4)", {"test_a"}, ()),
        ("a and 3 and not 4", {"test_a"}, ("3",)),
        ("not a or b", {"test_a"}, ("b",)),
        ("not a", {"test_a"}, None),
        ("A and not a", {"test_a"}, None),
        ("(a", {"test_a"}, None),
        ("a b", {"test_a"}, None),
        ("test_b", {"test_a"}, None),
        (" or ".join(f"x{i}" for i in range(9)), {"test_a"}, None),
    ],
)
def test_which_words_a_case_needs(expression: str, known: set[str], expected: tuple[str, ...] | None) -> None:
    assert words_to_match(expression, known, has_methods=False) == expected


# -- which files are read ----------------------------------------------------------------------------------------------


def raised(*statements: str) -> BaseException:
    try:
        exec("\n".join(statements), {"pytest": pytest})
    except BaseException as e:
        return e
    raise AssertionError


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        (["import absent_x"], "No module named 'absent_x'"),
        (["from json import absent_y"], "cannot import name 'absent_y' from 'json'"),
        (["raise OSError('libcuda.so.1: cannot open shared object file')"], "libcuda.so.1: cannot open shared object"),
        (["try:", "    import absent_x", "except ImportError as e:", "    raise RuntimeError('no') from e"],
         "No module named 'absent_x'"),
        (["pytest.importorskip('absent_x')"], "could not import 'absent_x'"),
        (["pytest.skip('no', allow_module_level=True)"], ""),
        (["1 +"], ""),
        (["absent_name"], ""),
        (["None.x"], ""),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_in_the_words_of_the_exception(statements: list[str], expected: str) -> None:
    found = missing(raised(*statements))
    assert found.startswith(expected)
    assert bool(found) == bool(expected)


PLAIN = "def test_plain(): ...\n"
LANE = "import pytest\n@pytest.mark.h200x8\ndef test_lane(): ...\n"


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    return pytester.runpytest("-p", "pytest_megacpp.plugin", "-rs", *args)


def test_a_file_with_lane_tests_only_does_not_stop_an_ordinary_session(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_plain=PLAIN, test_lane=f"{ABSENT}\n{LANE}", test_too=f"{ABSENT}\n{LANE}")
    result = run(pytester)
    result.assert_outcomes(passed=1, skipped=2)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "megacpp: 2 test files cannot be imported here (No module named 'absent_module_of_the_box');"
            " their tests were read from the source",
            "SKIPPED * needs a H200:8 box, so it runs only when asked for: pytest -m h200x8*",
        ]
    )


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (f"{ABSENT}\n{LANE}{PLAIN}", "*No module named 'absent_module_of_the_box'"),
        (f"{ABSENT}\n{PLAIN}", "*No module named 'absent_module_of_the_box'"),
        (f"absent_name\n{LANE}", "*NameError*"),
        (f"1 +\n{LANE}", "*SyntaxError*"),
    ],
)
def test_an_ordinary_error_of_a_file_stays_one(pytester: pytest.Pytester, source: str, said: str) -> None:
    pytester.makepyfile(test_plain=PLAIN, test_other=source)
    result = run(pytester)
    result.assert_outcomes(errors=1)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines([said])


def test_an_ordinary_test_that_is_not_selected_is_no_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_plain=PLAIN, test_other=f"{ABSENT}\n{LANE}def test_ordinary(): ...\n")
    result = run(pytester, "-k", "plain or lane")
    result.assert_outcomes(passed=1, skipped=1, deselected=1)


def test_a_module_that_is_imported_or_skipped_is_read(pytester: pytest.Pytester) -> None:
    source = f"import pytest\nabsent = pytest.importorskip('absent_module_of_the_box')\n{LANE}"
    pytester.makepyfile(test_other=source)
    result = run(pytester, "--co", "-m", "h200x8")
    result.stdout.fnmatch_lines(
        ["*1 test file cannot be imported here*", "*<SourceModule test_other.py>", "*<Function test_lane>"]
    )


def test_a_skipped_module_stays_skipped(pytester: pytest.Pytester) -> None:
    source = f"import pytest\npytest.skip('not here', allow_module_level=True)\n{LANE}"
    pytester.makepyfile(test_other=source)
    result = run(pytester, "--co", "-m", "h200x8")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.no_fnmatch_line("*read from the source*")


@pytest.mark.parametrize("place", ["", "sub/"])
def test_a_conftest_that_cannot_be_imported_is_explained(
    pytester: pytest.Pytester, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)  # where `auto` is refused, pytest gets no further
    (pytester.path / "sub").mkdir()
    (pytester.path / place / "conftest.py").write_text(f"{ABSENT}\n")
    (pytester.path / "sub" / "test_lane.py").write_text(LANE)
    result = pytester.runpytest_subprocess("-p", "pytest_megacpp.plugin", "-m", "h200x8")
    assert result.ret not in (0, pytest.ExitCode.NO_TESTS_COLLECTED)
    said = " ".join(f"{result.stdout.str()} {result.stderr.str()}".split())
    assert "a conftest.py cannot be imported here (No module named 'absent_module_of_the_box')" in said
