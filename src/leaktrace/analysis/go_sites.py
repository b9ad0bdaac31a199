"""What `leaktrace go` sees as sites like any others: a report of the Go runtime's profile of its
heap, and one of its goroutines, for what takes reports.

Both need all sites or groups (`GoReports` with a `top` that is large enough).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain

from leaktrace import units
from leaktrace.analysis.site_id import site_id
from leaktrace.go_report import (
    GoHeap,
    GoLine,
    GoReport,
    GoroutineGroup,
    ProfileLook,
    SiteFigures,
    SizedObjects,
    Skip,
)
from leaktrace.model import Loss, Measure, Remark, RemarkKind, Report, TargetInfo
from leaktrace.site import Frame, Site, SourceLine, Stack, StackEnd, Total

_CERTAIN_RATES = 64  # an object of so many times the rate is always recorded
_MUCH = 0.5  # of the heap: less than this in the profile needs a word
_EXIT = "runtime.goexit"  # the caller of what a goroutine begins with: in no profile of Go
_SHOW_CALLER = ("runtime.gopanic", "runtime.sigpanic", "runtime.panicwrap")
_NOT_KNOWN = Frame(0, "[stack not known: it was running]")
# In words, and whether they are missing.
_SKIPPED = {
    Skip.CHANGED: ("goroutines not seen: they went on each time they were looked at", True),
    Skip.UNREADABLE: ("goroutines not read: their memory can't be, or isn't that of one", True),
    Skip.RUNNING: ("goroutines were running: only how they began is known", False),
    Skip.INCOMPLETE: ("goroutines with stacks that could be followed for a part only", False),
}


def go_sites(report: GoReport) -> Report:
    """The profile of the heap, with the goroutines as a section; only these where there is no
    profile."""
    sites = GoSites(report)
    goroutines, heap = sites.goroutines, sites.heap
    if heap is None:
        return replace(goroutines, go_heap=report.heap)
    sections = (replace(goroutines, section="goroutines"),)
    return replace(heap, sections=sections, go_heap=report.heap)


def heap_sites(report: GoReport) -> Report | None:
    """The runtime's profile of its heap; None if there is none. What is allocated counts since the
    program began, or since the profile is on."""
    return GoSites(report).heap


def goroutine_sites(report: GoReport) -> Report:
    """The goroutines by stack, without the runtime's own. What is in use is how many there are."""
    return GoSites(report).goroutines


class GoSites:
    """Both, made when they are asked for, and what else is known of each site."""

    def __init__(self, report: GoReport) -> None:
        self.report = report
        self._frames = _Frames(report)

    @cached_property
    def heap(self) -> Report | None:
        """See `heap_sites`."""
        heap = self.report.heap
        if heap is None or heap.look.profile is None:
            return None
        profile = heap.look.profile
        return _report(
            self.report,
            Measure.GO_HEAP,
            tuple(site for site, _ in self._heap),
            Total(
                sum(one.in_use_bytes for one in profile.sites.values()),
                sum(one.in_use_count for one in profile.sites.values()),
            ),
            heap.site_count,
            sample_bytes=profile.rate_bytes if profile.rate_bytes > 1 else None,
            losses=tuple(_unread(profile)),
            remarks=tuple(_not_in_profile(heap, profile)),
        )

    @cached_property
    def figures_by_id(self) -> Mapping[str, SiteFigures]:
        """Those of the sites of `heap`."""
        return {site.id: figures for site, figures in self._heap}

    @cached_property
    def _heap(self) -> list[tuple[Site, SiteFigures]]:
        heap = self.report.heap
        if heap is None or heap.look.profile is None:
            return []
        rate_bytes = heap.look.profile.rate_bytes
        return [(_heap_site(one, self._frames, rate_bytes), one) for one in heap.sites]

    @cached_property
    def goroutines(self) -> Report:
        """See `goroutine_sites`."""
        section, skipped = self.report.goroutines, self.report.goroutines.skipped
        goroutine_count = section.alive_count - section.system_count
        sites: dict[tuple[str, str | None], Site] = {}
        for site, _ in self._goroutines:
            # Groups of several `go` statements may have one stack.
            old = sites.get((site.id, site.state))
            total = site.count + (0 if old is None else old.count)
            sites[site.id, site.state] = replace(site, bytes=total, count=total)
        return _report(
            self.report,
            Measure.GOROUTINES,
            tuple(sites.values()),
            Total(goroutine_count, goroutine_count),
            section.group_count - len(section.groups) + len(sites),
            losses=tuple(
                Loss(f"goroutines_{skip.value}", skipped[skip], meaning, is_lost=is_lost)
                for skip, (meaning, is_lost) in _SKIPPED.items()
                if skipped.get(skip)
            ),
        )

    @cached_property
    def groups_by_key(self) -> Mapping[tuple[str, str | None], Sequence[GoroutineGroup]]:
        """Those of each site of `goroutines`, by its id and state."""
        found: dict[tuple[str, str | None], list[GoroutineGroup]] = {}
        for site, group in self._goroutines:
            found.setdefault((site.id, site.state), []).append(group)
        return found

    @cached_property
    def _goroutines(self) -> list[tuple[Site, GoroutineGroup]]:
        groups = self.report.goroutines.groups
        return [(_goroutine_site(one, self._frames), one) for one in groups]


def _report(
    report: GoReport,
    measure: Measure,
    sites: tuple[Site, ...],
    held: Total,
    site_count: int,
    *,
    sample_bytes: int | None = None,
    losses: tuple[Loss, ...] = (),
    remarks: tuple[Remark, ...] = (),
) -> Report:
    errors = [site.error for site in sites if site.error is not None]
    return Report(
        time=report.time,
        elapsed_s=report.elapsed_s,
        number=report.number,
        final=report.final,
        reason=report.reason,
        target=TargetInfo(
            report.pid, report.command, allocators=(report.version,), notes=report.notes
        ),
        outstanding=held,
        younger=Total(),
        older_ms=0,
        site_count=site_count,
        sites=tuple(sorted(sites, key=lambda site: (-site.bytes, -site.allocated_bytes, site.id))),
        top=max(len(sites), 1),
        error=_root_of_squares(errors) if errors else None,
        full_stacks=True,
        sample_bytes=sample_bytes,
        losses=losses,
        remarks=remarks,
        measure=measure,
    )


def _heap_site(one: SiteFigures, frames: _Frames, rate_bytes: int) -> Site:
    stack, now = frames.stack(_as_go_shows(one.frames)), one.now
    return Site(
        id=site_id(stack.frames),
        stack=stack,
        bytes=now.in_use_bytes,
        count=now.in_use_count,
        allocated_bytes=now.allocated_bytes,
        allocated_count=now.allocated_count,
        freed_bytes=now.allocated_bytes - now.in_use_bytes,
        freed_count=now.allocated_count - now.in_use_count,
        error=_error(now.sizes, rate_bytes),
        object_sizes=now.sizes,
    )


def _error(sizes: Sequence[SizedObjects], rate_bytes: int) -> Total | None:
    """The standard errors of what is in use. Each object is recorded with a probability p, so the
    variance of an estimate of n objects is n (1/p - 1)."""
    if rate_bytes <= 1 or not sizes:
        return None
    parts = []
    for one in sizes:
        rates = one.size_bytes / rate_bytes
        odds = 1 / math.expm1(rates) if 0 < rates < _CERTAIN_RATES else 0.0
        error = math.sqrt(max(one.in_use_count, 0) * odds)
        parts.append(Total(round(error * one.size_bytes), round(error)))
    return _root_of_squares(parts)


def _root_of_squares(errors: Sequence[Total]) -> Total:
    return Total(
        round(math.hypot(*(one.bytes for one in errors))),
        round(math.hypot(*(one.count for one in errors))),
    )


def _goroutine_site(one: GoroutineGroup, frames: _Frames) -> Site:
    if one.growth.key.stack:
        stack = frames.stack(_as_go_shows(one.frames))
    else:  # only how it began is known
        began = () if one.started_as is None else frames.stack([one.started_as]).frames
        stack = Stack((_NOT_KNOWN, *began), StackEnd.BROKEN)
    count = one.growth.count
    return Site(
        id=site_id(stack.frames),
        stack=stack,
        bytes=count,
        count=count,
        state=one.growth.key.state,
    )


def _as_go_shows(lines: Sequence[GoLine]) -> list[GoLine]:
    """Without what the compiler made, unless a panic shows that it was called, and without the end
    of all stacks. Source: runtime/traceback.go, elideWrapperCalling."""
    shown = []
    callee = ""
    for line in lines:
        if not line.is_wrapper or callee in _SHOW_CALLER:
            shown.append(line)
        callee = line.function
    if shown and shown[-1].function == _EXIT:
        shown.pop()
    return shown


class _Frames:
    """Makes frames of lines; stacks share them. Lines are recognized by their identity before they
    are compared: the report keeps them."""

    def __init__(self, report: GoReport) -> None:
        self._report = report
        self._known: dict[tuple[int, bool], Frame] = {}
        self._equal: dict[tuple[GoLine, int, bool], Frame] = {}

    def stack(self, lines: Sequence[GoLine]) -> Stack:
        return Stack(tuple(self._of(lines)), StackEnd.COMPLETE)

    def _of(self, lines: Sequence[GoLine]) -> Iterator[Frame]:
        for line, caller in zip(lines, chain(lines[1:], [None]), strict=False):
            inlined = line.is_inlined and caller is not None and caller.address == line.address
            frame = self._known.get((id(line), inlined))
            if frame is None:
                frame = self._known[id(line), inlined] = self._by_value(line, inlined=inlined)
            yield frame

    def _by_value(self, line: GoLine, *, inlined: bool) -> Frame:
        key = line, line.address, inlined
        frame = self._equal.get(key)
        if frame is None:
            frame = self._equal[key] = self._new(line, inlined=inlined)
        return frame

    def _new(self, line: GoLine, *, inlined: bool) -> Frame:
        if not line.file and line.function.startswith("["):  # C code, or none at all
            return Frame(line.address)
        at = line.address - self._report.bias if line.address else None
        return Frame(
            line.address,
            line.function,
            at - line.start if at is not None and 0 < line.start <= at else 0,
            module=self._report.path,
            module_offset=at,
            build_id=self._report.build_id,
            source=SourceLine(line.file, line.line) if line.file else None,
            inlined=inlined,
        )


def _unread(profile: ProfileLook) -> Iterable[Loss]:
    if profile.skipped_count:
        yield Loss(
            "profile_records", profile.skipped_count, "records of the profile could not be read"
        )


def _not_in_profile(heap: GoHeap, profile: ProfileLook) -> Iterable[Remark]:
    known = sum(one.in_use_bytes for one in profile.sites.values())
    if known < _MUCH * heap.look.in_use_bytes:
        yield Remark(
            RemarkKind.NOT_IN_PROFILE,
            f"the profile has {units.size(known)} of {units.size(heap.look.in_use_bytes)} in use",
            "what was allocated before the profile was on, or since the last collections, is not "
            "in it",
        )
