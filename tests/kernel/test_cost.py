"""--max-overhead and --verbose: the cost of tracing is measured and limited."""

from __future__ import annotations

import pytest
from harness.compiling import Compiler
from harness.target import Target
from harness.tracer import ONE_REPORT, Tracer, run_leaktrace, trace_work
from harness.wording import lines_naming

from leaktrace.process.trap_cost import measure_traps

pytestmark = [
    pytest.mark.usefixtures("require_bpf"),
    pytest.mark.alone("it measures shares of CPU time"),
]


def test_above_the_bound_it_samples_and_then_detaches(compiled: Compiler) -> None:
    """A target that does nothing but allocate, and a limit that can't be kept."""
    with Target([compiled("hammer.c")]) as target:
        target.await_ready()
        options = ["--max-overhead", "0.001", *ONE_REPORT, "0.3"]
        with Tracer("-p", str(target.pid), *options) as tracer:
            outcome = tracer.finish()
        target.do()
        assert target.end() == 0
    assert outcome.exit_code == 0, outcome.stderr
    assert lines_naming(outcome.stderr, "allocation", 10)
    last = outcome.reports[-1].raw
    assert last["final"]
    assert "--max-overhead" in last["reason"]
    assert lines_naming(outcome.stderr, "hint", "--sample-bytes")
    assert [report.raw["sample_rate"] for report in outcome.reports] == [1, 1, 1, 10, 10, 10]
    assert 0 < last["cost"]["target_share"] <= 1
    assert last["cost"]["events_per_s"] > 0


def test_below_the_bound_nothing_changes(compiled: Compiler) -> None:
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        options = ["--max-overhead", "100", *ONE_REPORT, "0.2", "7"]
        outcome = run_leaktrace("-p", str(target.pid), *options)
        assert target.end() == 0
    assert outcome.exit_code == 0, outcome.stderr
    assert len(outcome.reports) == 7
    assert {report.raw["sample_rate"] for report in outcome.reports} == {1}


def test_a_negligible_cost_is_never_too_much(compiled: Compiler) -> None:
    """Even a few calls are a large share of the time of a nearly idle process."""
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        options = ["--max-overhead", "0.001", *ONE_REPORT, "0.2", "8"]
        with Tracer("-p", str(target.pid), *options) as tracer:
            tracer.await_armed()
            for _ in range(7):
                target.do("calls 20")
                tracer.next_report()
            outcome = tracer.finish()
        assert target.end() == 0
    assert [report.raw["sample_rate"] for report in outcome.reports] == [1] * 8


def test_verbose_counts_the_events_of_the_target(compiled: Compiler) -> None:
    def calls(target: Target) -> tuple[int, ...]:
        return target.do("calls 20000")

    program = compiled("commands.c")
    cost = trace_work([program], "-v", drive=calls).report.raw["cost"]
    assert cost["events_per_s"] > 0
    assert cost["programs_s_per_s"] > 0
    plain = trace_work([program], drive=calls).report.raw["cost"]
    assert plain["events_per_s"] is None
    assert plain["own_resident_bytes"] > 1 << 20


@pytest.mark.parametrize("other", [("-s", "2"), ("--sample-bytes", "100")])
def test_the_limit_starts_sampling(other: tuple[str, ...]) -> None:
    outcome = run_leaktrace("-p", "1", "--max-overhead", "5", *other)
    assert outcome.exit_code == 2
    assert "--max-overhead" in outcome.stderr


def test_lines_and_inlined_functions_can_be_left_out(compiled: Compiler) -> None:
    def allocate(target: Target) -> tuple[int, ...]:
        return target.do("malloc 3 100")

    program = compiled("commands.c", "-g")
    (site,) = trace_work([program], drive=allocate).report.sites_under("scenario_command_malloc")
    assert any(frame.get("file") for frame in site.raw["frames"])
    bare = trace_work([program], "--no-lines", "--no-inline", "--depth", "2", drive=allocate)
    (site,) = bare.report.sites_under("scenario_command_malloc")
    assert len(site.raw["frames"]) == 2
    assert not any(frame.get("file") or frame.get("inlined") for frame in site.raw["frames"])


def test_traps_are_priced_on_this_machine() -> None:
    """Each of the three costs is measurably above zero, where the machine isn't too busy."""
    traps = [measure_traps(with_stepping=True) for _ in range(5)]
    assert max(trap.entry_ns for trap in traps) > 0
    assert max(trap.return_ns for trap in traps) > 0
    assert max(trap.stepping_ns for trap in traps) > 0
