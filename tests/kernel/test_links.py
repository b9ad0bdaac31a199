"""Points and return probes, multi-probe links and perf events: all give the same figures. All other
tests use the best that the kernel has.
"""

from __future__ import annotations

import ctypes.util
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.length import chosen, crossed
from harness.probes import return_probe
from harness.reports import Report, Total
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Tracer, trace_work

from leaktrace.bpf import links
from leaktrace.bpf.links import UprobeLinks

pytestmark = pytest.mark.usefixtures("require_bpf")

WITHOUT = "LEAKTRACE_WITHOUT"


@dataclass(frozen=True)
class Way:
    """How leaktrace attaches, and what makes it do so."""

    links: UprobeLinks
    options: tuple[str, ...] = ()

    @property
    def without(self) -> str:
        return "uprobe_multi" if self.links is UprobeLinks.EVENTS else ""

    def is_there(self) -> bool:
        return self.links is UprobeLinks.EVENTS or links.has_uprobe_multi()


RETURNS = ("--probe-returns",)
WAYS = {
    "points together": Way(UprobeLinks.TOGETHER),
    "points by events": Way(UprobeLinks.EVENTS),
    "returns together": Way(UprobeLinks.TOGETHER, RETURNS),
    "returns by events": Way(UprobeLinks.EVENTS, RETURNS),
}
MAPPED = 4 << 20
PASSING = {
    "scenario_inside": Total(),
    "scenario_after": Total(MAPPED, 1),
    "scenario_callee_after": Total(MAPPED, 1),
    "scenario_stale_frame": Total(MAPPED, 1),
    "scenario_in_turn": Total(2 * MAPPED, 2),
    "scenario_by_jump": Total(3 * MAPPED, 3),
    "scenario_by_pointer": Total(3 * MAPPED, 3),
    "scenario_inside_calloc": Total(),
}


# A return probe on libc's malloc changes the return addresses of every traced process that has a
# probe at the same place.
HIDES_CALLERS = pytest.mark.alone("its return probes hide callers from other tracers")


def marks_of(name: str) -> list[pytest.MarkDecorator]:
    return [HIDES_CALLERS] if WAYS[name].options == RETURNS else []


@pytest.fixture(params=[pytest.param(name, marks=marks_of(name)) for name in WAYS])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Way:
    """The way that leaktrace attaches."""
    chosen = WAYS[request.param]
    if not chosen.is_there():
        pytest.skip(f"this kernel has no uprobe links of the kind {chosen.links}")
    monkeypatch.setenv(WITHOUT, chosen.without)
    return chosen


# Larger than the block that malloc is asked for, and smaller than what it maps; or by chance alone.
@pytest.mark.parametrize(
    ("way", "options"),
    [
        pytest.param(name, options, marks=marks_of(name))
        for name, options in crossed(list(WAYS), [("-z", "1050000"), ("-s", "1000000000")])
    ],
    indirect=["way"],
)
def test_what_is_left_out_maps_nothing(
    compiled: Compiler, way: Way, options: tuple[str, ...]
) -> None:
    program = compiled("passing.c", "-foptimize-sibling-calls")
    report = trace_work([program], *way.options, *options).report
    assert {scenario: report.under(scenario) for scenario in PASSING} == PASSING
    assert report.losses == {}


@HIDES_CALLERS
def test_what_is_left_out_maps_nothing_under_another_tools_return_probe(
    compiled: Compiler, way: Way
) -> None:
    """Another tool's return probe hides the return address of malloc, and ends the walk there."""
    program = compiled("passing.c", "-foptimize-sibling-calls")
    with Target([program]) as target:
        target.await_ready()
        libc = Path(f"/proc/{target.pid}/maps").read_text().split("libc.so.6")[0].split()[-1]
        with (
            Tracer(
                "-p", str(target.pid), *way.options, *ONE_REPORT, "-z", "1050000", NEVER
            ) as tracer,
            return_probe(Path(libc + "libc.so.6"), ["malloc"], target.pid),
        ):
            tracer.await_armed()
            target.do()
            report = tracer.stop().reports[-1]
        assert target.end() == 0
    assert report.outstanding == Total(
        sum(total.bytes for total in PASSING.values()),
        sum(total.count for total in PASSING.values()),
    )


@pytest.mark.may_skip("not every machine has jemalloc")
def test_what_is_left_out_after_an_exec_maps_nothing(compiled: Compiler) -> None:
    """Its mappings aren't known yet."""
    library = ctypes.util.find_library("jemalloc")
    if library is None:
        pytest.skip("libjemalloc is not installed")
    with Target([compiled("commands.c")], {"LD_PRELOAD": library}) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, "-s", "1000000000", NEVER) as tracer:
            tracer.await_armed()
            target.send(f"exec {compiled('allocator.c')}")
            target.await_ready()
            target.do()
            report = tracer.stop().reports[-1]
        assert target.end() == 0
    assert report.outstanding == Total()


@HIDES_CALLERS
@pytest.mark.parametrize(
    "program", chosen(["functions.c", "regions.c"], ["failures.c", "threads.c"])
)
def test_each_way_sees_the_same(
    compiled: Compiler, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    seen = {}
    for name, way in WAYS.items():
        if way.is_there():
            monkeypatch.setenv(WITHOUT, way.without)
            report = trace_work([compiled(program)], *way.options).report
            assert report.lost_allocations == {}
            seen[name] = by_stack(report)
    events = seen["returns by events"]
    assert sum(total.count for total in events.values()) > 0
    assert seen == dict.fromkeys(seen, events)


def by_stack(report: Report) -> dict[tuple[str | None, ...], Total]:
    found: dict[tuple[str | None, ...], Total] = {}
    for site in report.sites:
        before = found.get(site.functions, Total())
        found[site.functions] = Total(
            before.bytes + site.total.bytes, before.count + site.total.count
        )
    return found


def test_sampling_is_unbiased_by_each_way(compiled: Compiler, way: Way) -> None:
    """A call that is left out still counts for the next sample."""

    def drive(target: Target) -> tuple[int, ...]:
        target.do("malloc 100000 200")
        return ()

    options = (*way.options, "--sample-bytes", "20000")
    report = trace_work([compiled("commands.c")], *options, drive=drive).report
    assert report.outstanding.bytes == pytest.approx(20_000_000, rel=0.17)  # five standard errors
    assert report.losses == {}
