"""--sample-bytes on real programs: estimates within their standard errors, for every size."""

from __future__ import annotations

import math

import pytest
from harness.compiling import Compiler
from harness.reports import Report
from harness.target import Target
from harness.tracer import run_leaktrace, trace_work
from harness.wording import names

pytestmark = pytest.mark.usefixtures("require_bpf")

MEAN_BYTES = 20_000


def estimate(compiled: Compiler, *commands: str) -> Report:
    def drive(target: Target) -> tuple[int, ...]:
        for command in commands:
            target.do(command)
        return ()

    program = compiled("commands.c")
    return trace_work([program], "--sample-bytes", str(MEAN_BYTES), drive=drive).report


@pytest.mark.parametrize(("count", "size"), [(200_000, 16), (100_000, 200), (2_000, 20_000)])
def test_no_size_is_favoured(compiled: Compiler, count: int, size: int) -> None:
    """Each size alone, so that a bias of one can't hide behind another. The sample varies by
    chance; five standard errors mean one failure in 1.7 million runs."""
    report = estimate(compiled, f"malloc {count} {size}")
    probability = -math.expm1(-size / MEAN_BYTES)
    error = math.sqrt(count * (1 - probability) / probability)
    assert abs(report.outstanding.count - count) < 5 * error
    assert abs(report.outstanding.bytes - count * size) < 5 * error * size + 100
    stated = report.raw["error"]["bytes"]
    assert stated == pytest.approx(error * size, rel=0.5)


def test_large_allocations_are_exact(compiled: Compiler) -> None:
    report = estimate(compiled, "malloc 50 1000000")
    assert report.outstanding.bytes == 50_000_000
    assert report.raw["error"] == {"bytes": 0, "count": 0}


def test_site_totals_are_estimates_too(compiled: Compiler) -> None:
    report = estimate(compiled, "malloc 100000 200", "free")
    assert report.outstanding.count == 0
    report = estimate(compiled, "malloc 100000 200")
    (site,) = report.sites_under("scenario_command_malloc")
    assert site.raw["allocated_bytes"] == pytest.approx(site.total.bytes, rel=0.01)
    assert site.raw["allocated_count"] == pytest.approx(site.total.count, rel=0.01)


def test_one_way_of_sampling_at_a_time() -> None:
    outcome = run_leaktrace("-p", "1", "-s", "2", "--sample-bytes", "100")
    assert outcome.exit_code == 2
    assert names(outcome.stderr, "-s", "--sample-bytes")
