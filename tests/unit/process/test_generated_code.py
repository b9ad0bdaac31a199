"""What a report advises where generated code has no names or ends stacks: only what helps there."""

from __future__ import annotations

import pytest

from leaktrace.process.generated_code import GeneratedCode
from leaktrace.site import Frame, Stack, StackEnd
from leaktrace.targets.mappings import Mapping

NO_MAP = "code made at run time; /tmp/perf-42.map is not there"
NOT_LISTED = "code made at run time; /tmp/perf-42.map does not list it"
MALLOC = Frame(1, "caller", module="/lib/libc.so.6", module_offset=16)
UNNAMED = Frame(2, unknown=NO_MAP)
UNLISTED = Frame(2, unknown=NOT_LISTED)
NAMED = Frame(2, "JS:*parse app.js:3:1", 5)
EVALUATE = Frame(3, "_PyEval_EvalFrameDefault", module="/lib/libpython3.12.so", module_offset=3)


def mapping(path: str) -> Mapping:
    return Mapping(0x1000, 0x2000, "r-xp", 0, "00:01", 7, path)


def advice(file: str, *frames: Frame, end: StackEnd = StackEnd.COMPLETE) -> list[str]:
    seen = GeneratedCode()
    seen.see(Stack(frames, end))
    return list(seen.notes(42, [mapping(file)]))


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("/usr/lib/jvm/x/lib/server/libjvm.so", "jcmd 42 Compiler.perfmap"),
        ("/usr/bin/node", "node --perf-basic-prof"),
        ("/usr/bin/nodejs", "node --perf-basic-prof"),
        ("/usr/lib/libnode.so.108", "node --perf-basic-prof"),
        ("/usr/bin/node (deleted)", "node --perf-basic-prof"),
    ],
)
def test_each_runtime_has_its_own_way_to_names(file: str, words: str) -> None:
    (note,) = advice(file, MALLOC, UNNAMED, MALLOC)
    assert words in note


@pytest.mark.parametrize("file", ["/usr/bin/luajit", "/usr/bin/nodefs", "/usr/lib/libc.so.6", ""])
def test_another_runtime_has_no_advice(file: str) -> None:
    assert advice(file, MALLOC, UNNAMED) == []


@pytest.mark.parametrize("file", ["/usr/lib/libjvm.so", "/usr/bin/node", "/usr/bin/python3.12"])
@pytest.mark.parametrize("frames", [(), (MALLOC,), (MALLOC, NAMED, MALLOC)])
def test_nothing_is_advised_where_nothing_is_missing(file: str, frames: tuple[Frame, ...]) -> None:
    assert advice(file, *frames) == []


def test_a_stack_may_end_in_generated_code() -> None:
    unnamed, ended = advice("/x/libjvm.so", MALLOC, UNNAMED, end=StackEnd.BROKEN)
    assert "Compiler.perfmap" in unnamed
    assert "-XX:+PreserveFramePointer" in ended
    (ended,) = advice("/x/libjvm.so", MALLOC, NAMED, end=StackEnd.BROKEN)
    assert "-XX:+PreserveFramePointer" in ended
    assert advice("/x/libjvm.so", NAMED, MALLOC, end=StackEnd.BROKEN) == []


def test_a_list_of_names_may_be_too_old() -> None:
    """That of Java is of the moment at which it was asked for; node appends to its own."""
    (note,) = advice("/x/libjvm.so", UNLISTED)
    assert "Compiler.perfmap" in note
    assert advice("/usr/bin/node", UNLISTED) == []


@pytest.mark.parametrize(
    ("file", "is_told"),
    [
        ("/usr/bin/python3.11", False),
        ("/usr/lib/libpython3.11.so.1.0", False),
        ("/usr/bin/python3.12", True),
        ("/usr/lib/libpython3.13.so.1.0", True),
        ("/usr/lib/libpython3.20.so.1.0", True),
    ],
)
def test_python_functions(file: str, is_told: bool) -> None:
    notes = advice(file, MALLOC, EVALUATE)
    assert bool(notes) == is_told
    assert all("python -X perf" in note and "PYTHONPERFSUPPORT=1" in note for note in notes)
    python = Frame(4, "py::work:/srv/app.py")
    assert advice(file, MALLOC, EVALUATE, python) == []


def test_each_report_is_judged_by_its_own_stacks() -> None:
    seen = GeneratedCode()
    seen.see(Stack((UNNAMED,)))
    seen.begin_report()
    seen.see(Stack((NAMED,)))
    assert list(seen.notes(42, [mapping("/usr/bin/node")])) == []
