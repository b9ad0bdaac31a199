"""--faults: stacks of page faults, in bytes of pages that became resident."""

from __future__ import annotations

import pytest
from harness.compiling import Compiler
from harness.reports import Total
from harness.target import Target
from harness.tracer import NEVER, Traced, Tracer, run_leaktrace, trace_work
from harness.wording import the_note

pytestmark = pytest.mark.usefixtures("require_bpf")

PAGE = 4096


def trace(compiled: Compiler, *commands: str) -> Traced:
    def drive(target: Target) -> tuple[int, ...]:
        for command in commands:
            target.do(command)
        return ()

    return trace_work([compiled("faults.c", "-pthread")], "--faults", drive=drive)


def test_each_new_page_counts_once(compiled: Compiler) -> None:
    report = trace(compiled, "touch 500", "again").report
    assert report.raw["measure"] == "faults"
    assert report.under("scenario_touch") == Total(500 * PAGE, 500)
    assert report.under("scenario_again") == Total()


def test_threads_started_later_are_followed(compiled: Compiler) -> None:
    report = trace(compiled, "thread 300").report
    (site,) = [s for s in report.sites_under("scenario_touch") if s.total.count == 300]
    assert site.total.bytes == 300 * PAGE
    assert "in_thread" in site.functions
    assert site.raw["stack_end"] == "complete"


def test_pages_that_the_kernel_fills_have_the_stack_of_the_call(compiled: Compiler) -> None:
    report = trace(compiled, "read 200").report
    assert report.under("scenario_read") == Total(200 * PAGE, 200)


def test_pages_of_files_are_left_out_and_said(compiled: Compiler) -> None:
    with Target([compiled("faults.c", "-pthread")]) as target:
        target.await_ready().do("map 3")
        with Tracer("-p", str(target.pid), "--faults", "--format", "json", NEVER) as tracer:
            tracer.await_armed()
            target.do("file 3")
            outcome = tracer.stop()
    (report,) = outcome.reports
    assert report.under("scenario_file") == Total()
    the_note(report, "page faults", "files")


def test_the_leaf_is_where_the_page_was_touched(compiled: Compiler) -> None:
    report = trace(compiled, "touch 100").report
    (site,) = report.sites_under("scenario_touch")
    assert site.functions[0] == "scenario_touch"
    assert site.functions[1] == "main"


@pytest.mark.parametrize(
    "option", [("-t",), ("-a",), ("-s", "2"), ("-z", "1"), ("--sort", "age"), ("-O", "c")]
)
def test_options_that_make_no_sense_are_refused(option: tuple[str, ...]) -> None:
    outcome = run_leaktrace("-p", "1", "--faults", *option)
    assert outcome.exit_code == 2
    assert "--faults" in outcome.stderr
