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

from leaktrace.bpf import links

pytestmark = pytest.mark.usefixtures("require_bpf")

# None that leaktrace hooks: whoever takes a probe off removes what was left at its place, in every
# process, and another leaktrace may be at work on this machine.
FUNCTIONS = ["getenv", "atoi", "strtoul", "ffsll", "labs", "qsort", "abs", "strtol", "putenv"]
INT3 = b"\xcc"


@pytest.fixture
def target(compiled: Compiler) -> Iterator[Target]:
    with Target([compiled("commands.c")]) as target:
        yield target.await_ready()


@pytest.fixture
def require_links() -> None:
    if not links.has_uprobe_multi():
        pytest.skip("perf events are taken off for sure, and slowly")


@pytest.mark.parametrize("without", ["", "uprobe_multi"], ids=["links", "events"])
def test_a_start_removes_what_was_left(target: Target, require_links: None, without: str) -> None:
    left = breakpoints_left(target.pid, FUNCTIONS)
    env = {"LEAKTRACE_WITHOUT": without}
    with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER, env=env) as tracer:
        tracer.await_armed()
        target.do("malloc 70 30")
        outcome = tracer.stop()
    count = f"{len(left)} breakpoint{'s' if len(left) > 1 else ''}"
    assert f"removed from libc.so.6: {count} that a killed tracer had left" in outcome.stderr
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
        assert "that a killed tracer had left" in outcome.stderr
        told = re.findall(r"(\d+) breakpoints? of other tracers in (\S+)", outcome.stderr)
        assert sum(int(count) for count, _ in told) == len(probed)
        assert {"libc.so.6"} < {name for _, name in told}  # and the dynamic loader
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
    assert "1 breakpoint in the code of libc.so.6" in outcome.stderr
    assert f"process {debugger} debugs it" in outcome.stderr


def test_code_that_is_changed_otherwise_stays(target: Target) -> None:
    """Whose doing that is can't be told."""
    with patched(target.pid, "ffsll", INT3 + b"\x90\x90"):
        patch = changed_bytes(target.pid)
        outcome = run_leaktrace("-p", str(target.pid), "0.1", "1")
        assert changed_bytes(target.pid) == patch
    assert "1 breakpoint in the code of libc.so.6" in outcome.stderr
    assert "changed in other ways" in outcome.stderr


def test_nothing_is_said_where_nothing_was_left(target: Target) -> None:
    outcome = run_leaktrace("-p", str(target.pid), "-v", "0.1", "1")
    assert "breakpoint" not in outcome.stderr
