"""Attaching and detaching while the target is in the middle of its calls."""

from __future__ import annotations

import signal

import pytest
from harness import kernel_objects
from harness.compiling import Compiler
from harness.lines import DEADLINE_S
from harness.reports import Total
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Tracer, trace_work

pytestmark = pytest.mark.usefixtures("require_bpf")

HELD = 3 * (64 + 1)


def test_attaching_in_the_middle_of_calls(compiled: Compiler) -> None:
    """Three threads allocate and release throughout; at the end all is released, and no block may
    look outstanding. Older blocks are freed, and calls in progress return."""
    report = trace_work([compiled("hammer.c")]).report
    assert report.outstanding == Total()
    assert report.lost_allocations == {}


def test_sites_add_up_while_the_target_runs(compiled: Compiler) -> None:
    """Reports during the work are consistent. While a snapshot is read, a block that was read may
    be freed, and a new one may be allocated that will be read: at most twice what the threads hold,
    3 x 64 blocks and a region each."""
    with Target([compiled("hammer.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, "0.1", "10") as tracer:
            outcome = tracer.finish()
        assert target.end() == 0
    assert outcome.exit_code == 0, outcome.stderr
    assert len(outcome.reports) == 10
    for report in outcome.reports:
        assert sum(site.total.count for site in report.sites) == report.outstanding.count
        assert sum(site.total.bytes for site in report.sites) == report.outstanding.bytes
        assert report.outstanding.count <= 2 * HELD


def test_attached_and_detached_again_and_again(compiled: Compiler) -> None:
    with Target([compiled("hammer.c")]) as target:
        target.await_ready()
        for _ in range(2):
            with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
                tracer.await_armed()
                assert tracer.stop().exit_code == 0
        target.do()
        assert target.end() == 0


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_leaktrace_ends_in_the_middle_of_calls(by: signal.Signals, compiled: Compiler) -> None:
    """Calls that were entered with a return probe return after it was removed."""
    with Target([compiled("hammer.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            objects = kernel_objects.held_by(tracer.pid)
            tracer.process.send_signal(by)
            tracer.process.wait(DEADLINE_S)
        kernel_objects.await_gone(objects)
        target.do()
        assert target.end() == 0


def test_target_is_killed_in_the_middle_of_calls(compiled: Compiler) -> None:
    with Target([compiled("hammer.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            target.process.kill()
            outcome = tracer.finish()
    assert outcome.exit_code == 0, outcome.stderr
    (report,) = outcome.reports
    assert report.final
    assert report.outstanding.count <= HELD
