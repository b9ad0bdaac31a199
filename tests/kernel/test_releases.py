"""Who frees the blocks of a site: what the kernel side counts, against the target's own account."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.families import OFTEN, await_report
from harness.target import Target
from harness.tracer import Tracer as RunningTracer

from leaktrace.abi import process as abi
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.options import Pair, ProcessOptions, ProcessTarget, StackWalker
from leaktrace.process.setup import open_tracer
from leaktrace.process.tracer import Tracer

pytestmark = pytest.mark.usefixtures("require_bpf")

FREEING = ("close_often", "close_rarely", "resize")


@pytest.fixture
def program(compiled: Compiler) -> Path:
    return compiled("releases.c", "-fno-omit-frame-pointer")


@contextmanager
def traced(
    target: Target, pairs: tuple[Pair, ...] = (), walker: StackWalker = StackWalker.AUTO
) -> Iterator[Tracer]:
    options = ProcessOptions(target=ProcessTarget((target.pid,)), pairs=pairs, stack_walker=walker)
    tracer = open_tracer(options)
    try:
        tracer.arm()
        yield tracer
    finally:
        tracer.close()


def site_of(tracer: Tracer, snapshot: Snapshot, function: str = "open_one") -> int:
    """The stack id of the site where blocks are opened."""
    (found,) = (
        stack_id
        for stack_id in snapshot.site_ids.tolist()
        if tracer.names.stack_of(stack_id).frames[0].function == function
    )
    assert isinstance(found, int)
    return found


def by_function(tracer: Tracer, site: int) -> tuple[int, ...]:
    """How many were released in each of the functions. There are no others."""
    counts = tracer.releases()[site]
    found = dict.fromkeys(FREEING, 0)
    for stack_id, count in counts.items():
        names = [frame.function for frame in tracer.names.stack_of(stack_id).frames]
        (function,) = (name for name in names if name in FREEING)
        assert names[names.index(function) + 1 :][:2] == ["scenario_releases", "main"]
        found[function] += count
    return tuple(found.values())


def allocated(snapshot: Snapshot, site: int) -> int:
    (row,) = (snapshot.site_ids == site).nonzero()[0]
    return int(snapshot.sites["allocated_count"][row])


@pytest.mark.parametrize("walker", [StackWalker.AUTO, StackWalker.FP])
def test_few_releases_are_counted_exactly(program: Path, walker: StackWalker) -> None:
    with Target([program]) as target:
        target.await_ready()
        with traced(target, walker=walker) as tracer:
            target.do("blocks 1000 50 2")
            before = tracer.snapshot()
            site = site_of(tracer, before)
            losses = before.losses.tolist()
            tracer.watch_releases([site])
            account = target.do("blocks 60 40 3")
            snapshot = tracer.snapshot()
            assert by_function(tracer, site) == account
            # Nothing of it is an allocation, or a loss of one.
            assert allocated(snapshot, site) == 1060
            assert snapshot.losses.tolist() == losses
            assert set(snapshot.site_ids.tolist()) == set(before.site_ids.tolist())
        assert target.end() == 0


def test_many_releases_are_estimated_without_bias(program: Path) -> None:
    """Each walk stands for as many releases as were passed over. The standard error of a sum of
    such weights is at most the root of the largest weight times the sum."""
    with Target([program]) as target:
        target.await_ready()
        with traced(target) as tracer:
            target.do("blocks 1000 50 2")
            site = site_of(tracer, tracer.snapshot())
            tracer.watch_releases([site])
            account = target.do("blocks 300000 90 50")
            found = by_function(tracer, site)
        assert target.end() == 0
    for ours, theirs in zip(found, account, strict=True):
        assert abs(ours - theirs) < 6 * math.sqrt(theirs * 512) + 512, (found, account)
    assert sum(found) == pytest.approx(sum(account), rel=0.3)


def test_a_rare_path_is_seen_where_there_are_few_releases(program: Path) -> None:
    with Target([program]) as target:
        target.await_ready()
        with traced(target) as tracer:
            target.do("blocks 1000 50 2")
            site = site_of(tracer, tracer.snapshot())
            tracer.watch_releases([site])
            target.do("blocks 60 100 1")
            often, rarely, resized = target.do("blocks 1 0 1")
            assert (often, rarely, resized) == (0, 1, 0)
            assert by_function(tracer, site)[1] == 1
        assert target.end() == 0


def test_a_site_that_is_not_watched_costs_no_walk(program: Path) -> None:
    with Target([program]) as target:
        target.await_ready()
        with traced(target) as tracer:
            target.do("blocks 2000 50 2")
            tracer.snapshot()
            assert tracer.releases() == {}
            tracer.watch_releases([0, 1234])  # no sites
            target.do("blocks 100 50 2")
            assert tracer.releases() == {}
        assert target.end() == 0


def test_of_a_pair(program: Path) -> None:
    pair = Pair("object_take", "object_give")
    with Target([program]) as target:
        target.await_ready()
        with traced(target, (pair,)) as tracer:
            target.do("objects 1000 50 2")
            (section,) = tracer.snapshot().sections
            site = site_of(tracer, section)
            tracer.watch_releases([site])
            account = target.do("objects 60 40 3")
            assert by_function(tracer, site) == account
        assert target.end() == 0


def test_more_sites_than_watches(program: Path) -> None:
    """Sites that are no longer wanted make room."""
    with Target([program]) as target:
        target.await_ready()
        with traced(target) as tracer:
            target.do("deep 20 0 0")
            snapshot = tracer.snapshot()
            sites = [
                stack_id
                for stack_id in snapshot.site_ids.tolist()
                if "open_one" in {f.function for f in tracer.names.stack_of(stack_id).frames}
            ]
            assert len(sites) == 40  # two call sites at each depth
            for wanted in (sites[: abi.WATCHES], sites[-abi.WATCHES :]):
                tracer.watch_releases(wanted)
                target.do("deep 20 0 0")
                assert set(tracer.releases()) <= set(wanted)
            tracer.watch_releases(sites)  # the first ones matter most
            target.do("deep 20 0 0")
            assert set(tracer.releases()) <= set(sites[: abi.WATCHES])
            assert tracer.releases()
        assert target.end() == 0


def test_a_report_says_who_frees(program: Path) -> None:
    """A site that grows is watched, and later reports say who frees its blocks."""
    with Target([program]) as target:
        target.await_ready()
        with RunningTracer("-p", str(target.pid), *OFTEN) as tracer:
            tracer.await_armed()
            accounts = []

            def is_known(report: object) -> bool:
                accounts.append(target.do("blocks 3000 90 2"))
                return any(site.raw["freed_at"] for site in report.sites)  # type: ignore[attr-defined]

            report = await_report(tracer, is_known)
            outcome = tracer.stop()
        assert target.end() == 0
    assert outcome.exit_code == 0, outcome.stderr
    (site,) = (one for one in report.sites if one.raw["freed_at"])
    assert "open_one" in site.functions
    first = site.raw["freed_at"][0]
    assert "close_often" in {frame["function"] for frame in first["frames"]}
    assert first["count"] / first["of_count"] == pytest.approx(0.9, abs=0.2)
