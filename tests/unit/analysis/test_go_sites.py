"""What `leaktrace go` sees as sites."""

from __future__ import annotations

import random
from dataclasses import replace
from statistics import pstdev

import pytest
from sample_go import GO_REPORTS, GROWING, HEAP, SINGLE, STUCK

from leaktrace.analysis.go_reports import listed_at_most, with_top
from leaktrace.analysis.go_sites import go_sites, goroutine_sites, heap_sites
from leaktrace.go_report import GoLine, GoReport, ProfileKey, SeenSite, SizedObjects, Skip
from leaktrace.model import Measure
from leaktrace.site import StackEnd

RATE = 1 << 19


def with_site(seen: SeenSite, *lines: GoLine) -> GoReport:
    site = replace(HEAP.sites[0], now=seen, frames=lines or HEAP.sites[0].frames)
    assert HEAP.look.profile is not None
    profile = replace(HEAP.look.profile, rate_bytes=RATE, sites={ProfileKey((1,)): seen})
    look = replace(HEAP.look, profile=profile)
    heap = replace(HEAP, look=look, sites=(site,), site_count=1)
    return replace(GROWING, heap=heap)


def with_frames(*lines: GoLine) -> GoReport:
    group = replace(STUCK, frames=lines)
    section = replace(GROWING.goroutines, groups=(group,), group_count=1)
    return replace(GROWING, goroutines=section)


def line(name: str, address: int, **more: bool) -> GoLine:
    return GoLine(name, "/src/f.go", 7, address=GROWING.bias + address, **more)


def test_frames_are_those_of_the_file() -> None:
    report = heap_sites(GROWING)
    assert report is not None
    (site,) = report.sites
    first = site.stack.frames[0]
    assert (first.module, first.build_id) == (GROWING.path, GROWING.build_id)
    assert (first.module_offset, first.offset) == (0x8B10F, 0x2F)
    assert first.address == GROWING.bias + 0x8B10F
    moved = heap_sites(replace(GROWING, bias=GROWING.bias - 4096))
    assert moved is not None and moved.sites[0].id != site.id


def test_inlined_functions_share_an_address() -> None:
    lines = (
        line("main.inner", 0x20, is_inlined=True),
        line("main.outer", 0x20),
        line("main.cut", 0x30, is_inlined=True),  # its caller is not in the stack
        line("main.main", 0x40),
    )
    report = heap_sites(with_site(HEAP.sites[0].now, *lines))
    assert report is not None
    frames = report.sites[0].stack.frames
    assert [frame.inlined for frame in frames] == [True, False, False, False]


def test_wrappers_are_left_out_as_go_does() -> None:
    wrapper = line("main.T.m", 0x50, is_wrapper=True)
    exit_line = line("runtime.goexit", 0x60)
    for callee, shown in (("main.f", False), ("runtime.panicwrap", True)):
        report = goroutine_sites(with_frames(line(callee, 0x40), wrapper, exit_line))
        names = [frame.function for frame in report.sites[0].stack.frames]
        assert names == [callee, *(["main.T.m"] if shown else [])]


def test_c_code_has_no_name() -> None:
    report = goroutine_sites(with_frames(GoLine("[0x7f00]", "", 0, address=0x7F00)))
    (frame,) = report.sites[0].stack.frames
    assert (frame.function, frame.module, frame.address) == (None, None, 0x7F00)


def test_a_running_goroutine_has_no_stack() -> None:
    running = replace(
        STUCK,
        growth=replace(STUCK.growth, key=STUCK.growth.key._replace(stack=(), state="running")),
        frames=(),
        started_as=line("main.work", 0x70),
    )
    section = replace(GROWING.goroutines, groups=(running,), group_count=1)
    report = goroutine_sites(replace(GROWING, goroutines=section))
    (site,) = report.sites
    assert site.stack.end is StackEnd.BROKEN
    assert [frame.function for frame in site.stack.frames] == [
        "[stack not known: it was running]",
        "main.work",
    ]
    losses = {loss.name: (loss.count, loss.is_lost) for loss in report.losses}
    skipped = GROWING.goroutines.skipped
    assert losses == {
        "goroutines_running": (skipped[Skip.RUNNING], False),
        "goroutines_changed": (skipped[Skip.CHANGED], True),
    }


def test_one_stack_of_several_statements_is_one_site() -> None:
    other = replace(STUCK, created_by=None)
    waits = replace(
        STUCK, growth=replace(STUCK.growth, key=STUCK.growth.key._replace(state="select"))
    )
    section = replace(GROWING.goroutines, groups=(STUCK, other, waits), group_count=5)
    report = goroutine_sites(replace(GROWING, goroutines=section))
    counts = {site.state: site.count for site in report.sites}
    assert counts == {"chan receive": 2 * 5120, "select": 5120}
    assert report.site_count == 4  # two groups are not listed
    assert report.outstanding.count == 5175
    assert report.is_counted


def test_what_the_profile_lacks_is_said() -> None:
    now = HEAP.sites[0].now
    little = heap_sites(with_site(replace(now, in_use_bytes=1000)))
    assert little is not None and little.remarks[0].kind.is_of_completeness
    much = heap_sites(with_site(now))
    assert much is not None and not much.remarks
    assert little.outstanding.bytes == 1000


def test_without_a_profile_there_are_goroutines() -> None:
    assert heap_sites(SINGLE) is None
    assert go_sites(SINGLE).measure is Measure.GOROUTINES
    both = go_sites(GROWING)
    assert both.measure is Measure.GO_HEAP
    assert [one.measure for one in both.sections] == [Measure.GOROUTINES]


@pytest.mark.parametrize(("size", "count"), [(4096, 20_000), (RATE, 500), (100 * RATE, 10)])
def test_the_standard_error_is_that_of_sampling(size: int, count: int) -> None:
    """Estimates of many runs, each of which samples bytes as Go does: at random distances."""
    source = random.Random(4711)
    estimates, told = [], []
    for _ in range(60):
        recorded, until = 0, source.expovariate(1 / RATE)
        for _ in range(count):
            until -= size
            if until < 0:
                recorded += 1
                until = source.expovariate(1 / RATE)
        missed = 2.718281828459045 ** (-size / RATE)
        estimate = recorded / (1 - missed)
        estimates.append(estimate)
        held = (int(estimate), int(estimate * size), int(estimate), int(estimate * size))
        report = heap_sites(with_site(SeenSite(*held, (SizedObjects(size, *held),))))
        assert report is not None
        error = report.sites[0].error
        assert error is not None and report.error == error
        told.append(error.count)
    measured = pstdev(estimates)
    assert sum(told) / len(told) == pytest.approx(measured, rel=0.3, abs=0.5)


def test_all_that_is_recorded_has_no_error() -> None:
    report = with_site(HEAP.sites[0].now)
    assert report.heap is not None and report.heap.look.profile is not None
    profile = replace(report.heap.look.profile, rate_bytes=1)
    look = replace(report.heap.look, profile=profile)
    exact = heap_sites(replace(report, heap=replace(report.heap, look=look)))
    assert exact is not None
    assert not exact.is_estimate
    assert exact.error is None and exact.sites[0].error is None


def test_lists_are_cut_but_their_sizes_stay() -> None:
    """What a recording has in full, a report shows the beginning of."""
    assert HEAP.refills is None
    sampled = next(one for one in GO_REPORTS.values() if one.heap and one.heap.refills)
    assert sampled.heap is not None and sampled.heap.refills is not None
    refills = replace(sampled.heap.refills, sites=sampled.heap.refills.sites * 40)
    report = replace(sampled, heap=replace(sampled.heap, refills=refills))
    assert listed_at_most(report) == len(refills.sites)
    cut = with_top(report, 1)
    assert cut.heap is not None and cut.heap.refills is not None
    assert cut.heap.refills.sites == refills.sites[:1]
    assert len(cut.goroutines.groups) == cut.top == 1
    assert cut.goroutines.group_count == report.goroutines.group_count
