"""Full maps, filters and sampling: what is left out is counted, to the byte."""

from __future__ import annotations

import signal

import pytest
from harness.compiling import Compiler
from harness.reports import Report, Total
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Tracer, trace_work

pytestmark = pytest.mark.usefixtures("require_bpf")


def test_a_full_allocation_map_counts_what_is_missing(compiled: Compiler) -> None:
    """memleak drops these silently."""

    def allocate(target: Target) -> tuple[int, ...]:
        return target.do("malloc 5000 64")

    report = trace_work([compiled("commands.c")], "--max-allocs", "1000", drive=allocate).report
    lost = report.losses
    assert lost["allocations"] >= 5000 - 1000
    assert report.outstanding.count + lost["allocations"] == 5000
    assert report.outstanding.bytes + lost["allocation_bytes"] == 5000 * 64
    assert set(lost) == {"allocations", "allocation_bytes"}


def test_after_a_full_map_frees_bring_it_back_to_nothing(compiled: Compiler) -> None:
    def allocate_and_free(target: Target) -> tuple[int, ...]:
        target.do("malloc 5000 64")
        return target.do("free")

    program = compiled("commands.c")
    report = trace_work([program], "--max-allocs", "1000", drive=allocate_and_free).report
    assert report.outstanding == Total()
    assert report.sites == ()


def test_a_site_met_while_the_map_was_full_has_its_stack_later(compiled: Compiler) -> None:
    report = trace_work([compiled("full_map.c")], "--max-allocs", "1000").report
    assert report.outstanding == Total(20 * 77, 20)
    (site,) = report.sites_under("scenario_late")
    assert site.raw["stack_end"] == "complete"
    assert report.losses["allocations"] == 1000 + 20
    assert set(report.losses) == {"allocations", "allocation_bytes"}


def test_full_stack_maps_lose_stacks_and_no_allocation(compiled: Compiler) -> None:
    """4,096 stacks in a map of 1,000: every byte is counted, the rest as "lost"."""
    report = trace_work([compiled("stacks.c"), "12"], "--max-stacks", "1000").report
    assert report.outstanding == Total(2 * 4096 * 24 + 40 + 56, 2 * 4096 + 2)
    assert sum(site.total.count for site in report.sites) == report.outstanding.count
    assert sum(site.total.bytes for site in report.sites) == report.outstanding.bytes
    lost = [site for site in report.sites if site.raw["stack_end"] == "lost"]
    assert len(report.sites) - len(lost) <= 1000
    assert report.losses["stacks"] == sum(site.total.count for site in lost)


@pytest.mark.parametrize("buffer", ["auto", "perf"])
def test_a_full_buffer_of_region_events_can_be_made_larger(buffer: str, compiled: Compiler) -> None:
    """20,000 mappings come and go while leaktrace doesn't run."""
    lost = []
    for size in (1 << 20, 128 << 20):
        options = ("--event-buffer", buffer, "--event-buffer-size", str(size))
        with Target([compiled("commands.c")]) as target:
            target.await_ready()
            with Tracer("-p", str(target.pid), *ONE_REPORT, *options, NEVER) as tracer:
                tracer.await_armed()
                tracer.process.send_signal(signal.SIGSTOP)
                target.do("regions 20000")
                tracer.process.send_signal(signal.SIGCONT)
                outcome = tracer.stop()
            assert target.end() == 0
        assert outcome.exit_code == 0, outcome.stderr
        lost.append(outcome.reports[-1].losses)
    assert set(lost[0]) == {"region_events"}
    assert 0 < lost[0]["region_events"] <= 40_000
    assert lost[1] == {}


def test_size_filters_include_their_bounds(compiled: Compiler) -> None:
    def allocate(target: Target) -> tuple[int, ...]:
        for size in (99, 100, 150, 200, 201):
            target.do(f"malloc 10 {size}")
        return ()

    report = trace_work([compiled("commands.c")], "-z", "100", "-Z", "200", drive=allocate).report
    assert report.outstanding == Total(10 * (100 + 150 + 200), 30)
    assert report.losses == {}


def test_realloc_out_of_the_size_filter_forgets_the_block(compiled: Compiler) -> None:
    """Blocks of 100 bytes grow to 5,000: recorded, then no longer."""
    report = trace_work([compiled("functions.c")], "-Z", "100").report
    assert report.under("scenario_realloc_grows") == Total()
    assert report.under("scenario_reallocarray_grows") == Total()
    assert report.under("scenario_realloc_shrinks") == Total(50, 1)
    assert report.losses == {}


def test_samples_are_scaled_to_an_unbiased_estimate(compiled: Compiler) -> None:
    """200,000 allocations of 100 bytes, one in ten sampled: the estimate's standard deviation is
    sqrt(200,000 x 9) = 1,342; seven of them either way."""

    def allocate(target: Target) -> tuple[int, ...]:
        return target.do("malloc 200000 100")

    report = trace_work([compiled("commands.c")], "-s", "10", drive=allocate).report
    assert report.raw["sample_rate"] == 10
    assert report.outstanding.count % 10 == 0
    assert abs(report.outstanding.count - 200_000) < 7 * 1342
    assert report.outstanding.bytes == 100 * report.outstanding.count
    assert report.sites[0].total == report.outstanding
    assert report.losses == {}


def test_sampled_blocks_that_are_freed_leave_nothing(compiled: Compiler) -> None:
    def allocate_and_free(target: Target) -> tuple[int, ...]:
        target.do("malloc 100000 100")
        return target.do("free")

    report = trace_work([compiled("commands.c")], "-s", "3", drive=allocate_and_free).report
    assert report.outstanding == Total()


def test_nothing_is_sampled_away_at_rate_one(compiled: Compiler) -> None:
    def allocate(target: Target) -> tuple[int, ...]:
        return target.do("malloc 1000 100")

    report = trace_work([compiled("commands.c")], "-s", "1", drive=allocate).report
    assert report.outstanding == Total(100_000, 1000)
    assert report.raw["sample_rate"] == 1


def test_full_thread_map_counts_the_calls_it_misses(compiled: Compiler) -> None:
    """Eight threads of 1,000 blocks each, and room for three threads. Half of each thread's blocks
    are freed by another thread. The missed calls include some that the allocator makes to
    itself."""
    report = trace_work([compiled("threads.c")], "--max-threads", "3").report
    assert report.outstanding.count == 3 * 500
    assert report.losses.keys() == {"threads"}
    assert report.losses["threads"] >= 5 * 1000


def test_lost_trace_events_are_counted(compiled: Compiler) -> None:
    """200,000 events through one page: each was printed, or counted as lost."""
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        options = ["-t", "--event-buffer-size", "4096", "--format", "json", "-o", "0"]
        with Tracer("-p", str(target.pid), *options, NEVER) as tracer:
            tracer.await_armed()
            target.do("calls 100000")
            outcome = tracer.stop()
        assert target.end() == 0
    assert outcome.exit_code == 0, outcome.stderr
    *events, last = outcome.stdout.splitlines()
    report = Report(last)
    assert len(events) + report.losses["events"] == 200_000
    assert report.losses.keys() == {"events"}
    assert report.outstanding == Total()
