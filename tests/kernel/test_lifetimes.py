"""How long blocks lived that were freed: what reports say, and what the target has measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.compiling import Compiler
from harness.families import OFTEN, await_report, await_traced, last_report, notes_of
from harness.reports import Report, Site
from harness.target import Target
from harness.tracer import Tracer, trace_work

from leaktrace.options import ProcessOptions, ProcessTarget
from leaktrace.process.setup import open_tracer

pytestmark = pytest.mark.usefixtures("require_bpf")

SCENARIO = "scenario_lifetimes"
SLEEPS_US = (1_000, 20_000, 300_000)


@pytest.fixture
def program(compiled: Compiler) -> Path:
    return compiled("lifetimes.c", "-pthread", "-fno-omit-frame-pointer")


def histogram(site: Site) -> dict[int, int]:
    """Counts by upper bound in nanoseconds."""
    lifetimes: dict[str, Any] = site.raw["lifetimes"]
    found = dict(zip(lifetimes["upper_bounds_ns"], lifetimes["counts"], strict=True))
    assert lifetimes["freed_count"] == sum(found.values())
    return found


def assert_agrees(found: dict[int, int], account: tuple[int, ...]) -> None:
    """For each bound: at least as many blocks lived less than that as certainly did, and at most as
    many as possibly did."""
    at_least, at_most = account[::2], account[1::2]
    assert sum(found.values()) == len(at_least)
    for power in range(64):
        bound = 1 << power
        shorter = sum(count for upper, count in found.items() if upper <= bound)
        certainly, possibly = (sum(one < bound for one in some) for some in (at_most, at_least))
        assert certainly <= shorter <= possibly, (power, found, account)


def site_of(report: Report) -> Site:
    (site,) = (one for one in report.sites_under(SCENARIO) if "take" in one.functions)
    return site


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("blocks", ()),
        ("resized", ()),
        ("handed", ()),
        ("resized", ("--probe-returns",)),
        ("blocks", ("--stack-walker", "fp")),
    ],
    ids=str,
)
def test_after_known_times(program: Path, kind: str, options: tuple[str, ...]) -> None:
    def drive(target: Target) -> tuple[int, ...]:
        first, second, third = (
            target.do(f"{kind} {count} {sleep_us}")
            for count, sleep_us in zip((9, 3, 1), SLEEPS_US, strict=True)
        )
        return first + second + third

    traced = trace_work([program], *options, drive=drive)
    site = site_of(traced.report)
    assert_agrees(histogram(site), traced.account)
    assert site.raw["freed_count"] == 13
    assert site.total.count == 3
    assert not traced.report.lost_allocations


def test_of_a_pair(program: Path) -> None:
    traced = trace_work(
        [program],
        *("--pair", "object_take:object_give"),
        drive=lambda target: target.do("objects 2 20000"),
    )
    (section,) = traced.report.raw["sections"]
    (site,) = Report.sites_of(section)
    assert_agrees(histogram(site), traced.account)


def test_of_descriptors(compiled: Compiler) -> None:
    """Each is counted as it is closed."""
    traced = trace_work(
        [compiled("descriptors.c")], "--fds", drive=lambda target: target.do("threads 20")
    )
    (section,) = traced.report.raw["sections"]
    sites = [site for site in Report.sites_of(section) if site.raw["freed_count"]]
    assert sites
    for site in sites:
        assert sum(histogram(site).values()) == site.raw["freed_count"]


@pytest.mark.parametrize("options", [("-s", "3"), ("--sample-bytes", "300")], ids=str)
def test_sampled(program: Path, options: tuple[str, ...]) -> None:
    """The counts are those of the sample, and it has no block that lived shorter than all did."""

    def drive(target: Target) -> tuple[int, ...]:
        for _ in range(40):  # blocks that stay: one of them is in the sample
            target.do("blocks 0 0")
        return tuple(one for _ in range(10) for one in target.do("blocks 20 2000"))

    traced = trace_work([program], *options, drive=drive)
    site = site_of(traced.report)
    found = histogram(site)
    assert 0 < sum(found.values()) < 200
    assert min(found) > min(traced.account[::2])
    scale = site.raw["freed_count"] / sum(found.values())
    assert scale > 2


@pytest.mark.parametrize("options", [("--combined-only",), ("--faults",)], ids=str)
def test_not_measured(program: Path, options: tuple[str, ...]) -> None:
    traced = trace_work([program], *options, drive=lambda target: target.do("blocks 9 1000"))
    assert all(site.raw["lifetimes"] is None for site in traced.report.sites)


def test_mapped_memory_has_none(compiled: Compiler) -> None:
    report = trace_work([compiled("regions.c")]).report
    assert report.sites
    functions = {
        site.raw["lifetimes"] is None for site in report.sites if site.raw["bytes"] >= 4096
    }
    assert functions == {True}


def test_another_program_starts_over(program: Path) -> None:
    """After an exec the same code makes the same site, whose id is the same."""
    with Target([program]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *OFTEN) as tracer:
            tracer.await_armed()
            target.do("blocks 9 1000")
            target.send("exec")
            target.await_ready()
            # From then on its stacks are complete.
            await_report(tracer, lambda report: "has executed" in notes_of(report))
            account = target.do("blocks 4 20000")
            report = last_report(tracer)
        assert target.end() == 0
    assert_agrees(histogram(site_of(report)), account)


@pytest.fixture
def parent(program: Path) -> Iterator[Target]:
    with Target([program]) as target:
        yield target.await_ready()


def test_of_several_processes(parent: Target) -> None:
    """What both have freed at the same site is added up; by process, each has its own."""
    arguments = ("-p", str(parent.pid), "--follow", "--by", "process", *OFTEN)
    with Tracer(*arguments) as tracer:
        tracer.await_armed()
        own = parent.do("blocks 5 1000")
        (child,) = parent.do("fork")
        await_traced(tracer, child)
        of_child = parent.do("child blocks 3 20000")
        report = last_report(tracer)
        assert parent.end() == 0
    assert_agrees(histogram(site_of(report)), own + of_child)
    parts = {part["pid"]: part for part in report.raw["by_process"]}
    for pid, account in ((parent.pid, own), (child, of_child)):
        (site,) = (one for one in Report.sites_of(parts[pid]) if SCENARIO in one.functions)
        assert_agrees(histogram(site), account)


def test_releases_of_older_blocks_are_counted(program: Path) -> None:
    """Blocks from before the attach, freed or resized, but not those that were seen allocated."""
    with Target([program]) as target:
        target.await_ready()
        tracer = open_tracer(ProcessOptions(target=ProcessTarget((target.pid,))))
        try:
            tracer.arm()
            assert tracer.snapshot().unseen_releases == 0
            target.do("blocks 9 100")
            target.do("resized 9 100")
            assert tracer.snapshot().unseen_releases == 0
            (count,) = target.do("older 100")
            assert tracer.snapshot().unseen_releases == count
        finally:
            tracer.close()
        assert target.end() == 0
