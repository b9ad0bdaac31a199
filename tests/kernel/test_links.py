"""Sessions, links of many probes, perf events: the same truth by each, and what sessions let pass.

Every other test uses the best that the kernel has.
"""

from __future__ import annotations

import pytest
from harness.compiling import Compiler
from harness.reports import Report, Total
from harness.target import Target
from harness.tracer import trace_work

from leaktrace import links
from leaktrace.links import UprobeLinks

pytestmark = pytest.mark.usefixtures("require_bpf")

WITHOUT = "LEAKTRACE_WITHOUT"
WAYS = {
    UprobeLinks.SESSIONS: "",
    UprobeLinks.TOGETHER: "uprobe_sessions",
    UprobeLinks.EVENTS: "uprobe_sessions,uprobe_multi",
}
MAPPED = 4 << 20
PASSING = {
    "scenario_inside": Total(),
    "scenario_after": Total(MAPPED, 1),
    "scenario_callee_after": Total(MAPPED, 1),
    "scenario_stale_frame": Total(MAPPED, 1),
    "scenario_in_turn": Total(2 * MAPPED, 2),
    "scenario_inside_calloc": Total(),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> UprobeLinks:
    """A way of attaching, for leaktrace and for this process."""
    chosen: UprobeLinks = request.param
    have = {
        UprobeLinks.SESSIONS: links.has_uprobe_sessions,
        UprobeLinks.TOGETHER: links.has_uprobe_multi,
    }
    if chosen in have and not have[chosen]():
        pytest.skip(f"this kernel has no uprobe links of the kind {chosen}")
    monkeypatch.setenv(WITHOUT, WAYS[chosen])
    return chosen


# Larger than the block that malloc is asked for, and smaller than what it maps; or by chance alone.
@pytest.mark.parametrize("options", [("-z", "1050000"), ("-s", "1000000000")])
def test_what_is_left_out_maps_nothing(
    compiled: Compiler, way: UprobeLinks, options: tuple[str, ...]
) -> None:
    report = trace_work([compiled("passing.c")], *options).report
    assert {scenario: report.under(scenario) for scenario in PASSING} == PASSING
    assert report.losses == {}


@pytest.mark.parametrize("program", ["functions.c", "failures.c", "regions.c", "threads.c"])
def test_each_way_sees_the_same(
    compiled: Compiler,
    way: UprobeLinks,
    program: str,
    seen_by_sessions: dict[str, dict[tuple[str | None, ...], Total]],
) -> None:
    report = trace_work([compiled(program)]).report
    assert report.lost_allocations == {}
    seen = by_stack(report)
    assert sum(total.count for total in seen.values()) > 0
    assert seen_by_sessions.setdefault(program, seen) == seen


@pytest.fixture(scope="module")
def seen_by_sessions() -> dict[str, dict[tuple[str | None, ...], Total]]:
    """What the first way saw, by program."""
    return {}


def by_stack(report: Report) -> dict[tuple[str | None, ...], Total]:
    found: dict[tuple[str | None, ...], Total] = {}
    for site in report.sites:
        before = found.get(site.functions, Total())
        found[site.functions] = Total(
            before.bytes + site.total.bytes, before.count + site.total.count
        )
    return found


def test_sampling_is_unbiased_by_each_way(compiled: Compiler, way: UprobeLinks) -> None:
    """A call that passes still counts for the next sample."""

    def drive(target: Target) -> tuple[int, ...]:
        target.do("malloc 100000 200")
        return ()

    report = trace_work([compiled("commands.c")], "--sample-bytes", "20000", drive=drive).report
    assert report.outstanding.bytes == pytest.approx(20_000_000, rel=0.17)  # five standard errors
    assert report.losses == {}
