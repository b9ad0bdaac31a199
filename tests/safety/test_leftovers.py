"""Breakpoints that an earlier tracer left are removed; others' are not touched."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from harness.changed_text import changed_bytes
from harness.compiling import Compiler
from harness.leaving import breakpoints_left, debugged, patched
from harness.reports import Total
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Tracer, run_leaktrace
from harness.wording import lines_naming, names

from leaktrace.bpf import links

pytestmark = [
    pytest.mark.usefixtures("require_bpf"),
    pytest.mark.alone("a kill is aimed at the moment when probes are removed"),
]

# None that leaktrace hooks: detaching a probe removes leftovers at its location in every process,
# and another leaktrace may be running on this machine.
FUNCTIONS = ["getenv", "atoi", "strtoul", "ffsll", "labs", "qsort", "abs", "strtol", "putenv"]
INT3 = b"\xcc"


@pytest.fixture
def target(compiled: Compiler) -> Iterator[Target]:
    with Target([compiled("commands.c")]) as target:
        yield target.await_ready()


@pytest.fixture
def require_links() -> None:
    if not links.has_uprobe_multi():
        pytest.skip("perf events are always detached, and slowly")


@pytest.mark.parametrize("without", ["", "uprobe_multi"], ids=["links", "events"])
def test_a_start_removes_what_was_left(target: Target, require_links: None, without: str) -> None:
    left = breakpoints_left(target.pid, FUNCTIONS)
    env = {"LEAKTRACE_WITHOUT": without}
    with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER, env=env) as tracer:
        tracer.await_armed()
        target.do("malloc 70 30")
        outcome = tracer.stop()
    assert (
        len(lines_naming(outcome.stderr, "removed", "libc.so.6", len(left), "killed tracer")) == 1
    )
    (report,) = outcome.reports
    assert report.outstanding == Total(2100, 70)
    assert changed_bytes(target.pid) == []
    assert target.end() == 0


def test_a_live_tracer_keeps_its_probes(target: Target, require_links: None) -> None:
    with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as other:
        other.await_armed()
        probed = changed_bytes(target.pid)
        breakpoints_left(target.pid, FUNCTIONS)
        outcome = run_leaktrace("-p", str(target.pid), "-v", "0.1", "1")
        assert names(outcome.stderr, "killed tracer")
        lines = lines_naming(outcome.stderr, "breakpoint", "another tracer")
        counts = re.findall(r"(\d+) breakpoint", "\n".join(lines))
        assert sum(map(int, counts)) == len(probed)
        assert 1 == len(lines_naming("\n".join(lines), "libc.so.6")) < len(lines)  # the loader too
        assert changed_bytes(target.pid) == probed
        target.do("malloc 70 30")
        (report,) = other.stop().reports
    assert report.outstanding == Total(2100, 70)
    assert changed_bytes(target.pid) == []


def test_a_debuggers_breakpoint_stays(target: Target) -> None:
    with debugged(target.pid) as debugger, patched(target.pid, "ffsll", INT3):
        patch = changed_bytes(target.pid)
        outcome = run_leaktrace("-p", str(target.pid), "0.1", "1")
        assert changed_bytes(target.pid) == patch
    assert len(lines_naming(outcome.stderr, 1, "breakpoint", "libc.so.6", debugger)) == 1


def test_code_that_is_changed_otherwise_stays(target: Target) -> None:
    """The origin of such a change is unknown."""
    with patched(target.pid, "ffsll", INT3 + b"\x90\x90"):
        patch = changed_bytes(target.pid)
        outcome = run_leaktrace("-p", str(target.pid), "0.1", "1")
        assert changed_bytes(target.pid) == patch
    assert len(lines_naming(outcome.stderr, 1, "breakpoint", "libc.so.6", "changed")) == 1


def test_no_message_without_leftovers(target: Target) -> None:
    outcome = run_leaktrace("-p", str(target.pid), "-v", "0.1", "1")
    assert "breakpoint" not in outcome.stderr
