"""Reports about several processes: one account of all, and what each of them holds.

A call path that several processes run is one site. As long as there is only one process, the
reports are exactly those of `ReportBuilder`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.builder import ReportBuilder
from leaktrace.analysis.choice import Chosen
from leaktrace.analysis.same_sites import LocationsOf, SameSites, stack_ids_in
from leaktrace.analysis.sampling import Sampling
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.analysis.split import Part, split
from leaktrace.analysis.verdicts.watch import SiteWatch
from leaktrace.memory import MemoryGrowth, MemoryKinds
from leaktrace.model import Ending, Loss, Measure, ProcessLine, Remark, Report, TargetInfo
from leaktrace.options import By, CommonOptions, ObjectChoice
from leaktrace.reach import Holder
from leaktrace.site import ProcessShare, Releaser, Stack

_ALL_OBJECTS = ObjectChoice()
# If it is not known what a program accounts for, its growth explains nothing.
_UNKNOWN_PROGRAMS = MemoryKinds(anonymous=1 << 62, file=1 << 62)


@dataclass(frozen=True)
class Member:
    """A traced process. Its figures are those of its slot in the snapshot.

    `memory` is compared with what the process held when its tracing began: for a forked child, when
    it was forked, because it inherits memory. `of_programs` is as in `ReportBuilder.build`.
    """

    slot: int
    pid: int
    parent_pid: int | None
    command: str  # the process's name
    memory: MemoryGrowth | None = None  # None if it has ended
    ending: Ending | None = None
    has_ended: bool = False
    traced_s: float = 0.0
    started_under_trace: bool = False
    of_programs: Callable[[], MemoryKinds] | None = None

    @property
    def key(self) -> tuple[int, int]:
        """Slots and process ids are used again, but hardly both at once."""
        return self.slot, self.pid


@dataclass(frozen=True)
class _Counted:
    """A process, its part of a snapshot, and what its own report will contain."""

    member: Member
    part: Part
    builder: ReportBuilder
    chosen: Chosen


class FamilyBuilder:
    """Builds reports about all traced processes, and keeps what the next one is compared with.

    The arguments are those of `ReportBuilder`; `new_watch` makes one of its watches. Stack ids are
    unique across processes. One of them represents all of the same site: of those in the snapshot,
    the one that was seen first. `locations_of` returns what all stacks of a site have in common, in
    whichever process: code that is in no file must never be equal in two processes.
    """

    def __init__(
        self,
        options: CommonOptions,
        describe_losses: Callable[[Snapshot], tuple[Loss, ...]],
        stack_of: Callable[[int], Stack],
        locations_of: LocationsOf,
        prepare: Callable[[Sequence[int]], None] = lambda _: None,
        *,
        measure: Measure = Measure.ALLOCATIONS,
        objects: ObjectChoice = _ALL_OBJECTS,
        new_watch: Callable[[], SiteWatch | None] = lambda: None,
    ) -> None:
        self._options = options
        self._stack_of = stack_of
        self._locations_of = locations_of
        self._prepare = prepare
        self._measure = measure
        self._objects = objects
        self._new_watch = new_watch
        self._all = ReportBuilder(
            options,
            describe_losses,
            stack_of,
            prepare,
            measure=measure,
            objects=objects,
            watch=new_watch(),
        )
        self._each: dict[tuple[int, int], ReportBuilder] = {}  # by Member.key
        self._own_stacks: dict[tuple[int, int], dict[int, int]] = {}
        self._same_sites = SameSites()
        self._alone: Member | None = None  # the only process of the last report
        self._pids: dict[int, int] = {}  # by slot, in the last report
        self._is_family = False  # and stays one when all others have ended
        # What holds the blocks of a site, by its stack id, in the process of a slot, None: in all.
        self.held_by: Callable[[int, int | None], tuple[Holder, ...]] = lambda _id, _slot: ()
        self._all.held_by = lambda stack_id: self.held_by(stack_id, None)

    @property
    def sampling(self) -> Sampling:
        """How allocations are chosen, in all processes."""
        return self._all.sampling

    @sampling.setter
    def sampling(self, sampling: Sampling) -> None:
        for builder in (self._all, *self._each.values()):
            builder.sampling = sampling

    @property
    def freed_at(self) -> Callable[[int], tuple[Releaser, ...]]:
        """Who frees the blocks of a site, by its stack id."""
        return self._all.freed_at

    @freed_at.setter
    def freed_at(self, freed_at: Callable[[int], tuple[Releaser, ...]]) -> None:
        self._all.freed_at = freed_at

    @property
    def suspicious(self) -> Sequence[int]:
        """The sites, by stack id, that the last report suspects to leak."""
        return self._all.suspicious

    @property
    def shown(self) -> Sequence[int]:
        """The sites that the last report shows, by stack id, in their order."""
        return self._all.shown

    def site_id_of(self, stack_id: int) -> str:
        """The id of the site that a stack id belongs to."""
        return self._all.site_id(self.first_of(stack_id), None)

    def all_of(self, stack_id: int) -> list[int]:
        """The stack ids, of whichever process, that one represents in reports."""
        return self._same_sites.all_of(stack_id) if self._is_family else [stack_id]

    def first_of(self, stack_id: int) -> int:
        """The stack id that represents this one in reports."""
        return self._same_sites.first_of(stack_id) if self._is_family else stack_id

    def start_clock(self) -> None:
        """The probes are active from now on."""
        self._all.start_clock()

    def forget(self, slot: int | None = None) -> None:
        """Start over after exec: the new program doesn't hold the memory of the old one. `slot`:
        that of the process, None: of the only one. (The totals of several processes are still
        compared: they have lost what the old program held.)"""
        if not self._is_family:
            self._all.forget()
        for (of_slot, _), builder in self._each.items():
            if slot in (None, of_slot):
                builder.forget()

    def build(
        self,
        snapshot: Snapshot,
        target: TargetInfo,
        members: Sequence[Member],
        memory: MemoryGrowth | None,
        of_programs: Callable[[], MemoryKinds] = MemoryKinds,
        *,
        remarks: tuple[Remark, ...] = (),
        target_ended: bool = False,
        final_reason: str | None = None,
    ) -> Report:
        """The report of one snapshot. `members` are the processes of all slots in it.

        `memory` and `of_programs` are those of the only process. Several have them in `members`.
        `target_ended`: all of them have.
        """
        if len(members) <= 1 and not self._is_family:
            self._alone = members[0] if members else None
            return self._all.build(
                snapshot,
                target,
                memory,
                of_programs,
                remarks=remarks,
                target_ended=target_ended,
                final_reason=final_reason,
            )
        self._become_family()
        stack_ids = stack_ids_in(snapshot)
        self._keep_only(snapshot, stack_ids, members)
        self._pids = self._all.pids = {member.slot: member.pid for member in members}
        merged = self._same_sites.merge(snapshot, self._locations_of, stack_ids)
        chosen = self._all.choose(merged, _anonymous_in(members), target_ended=target_ended)
        each = self._count_each(snapshot, merged, members, target_ended=target_ended)
        self._prepare(self._stacks_to_show(chosen, each))
        report = self._all.compose(chosen, target, None, remarks=remarks, final_reason=final_reason)
        parts = [(one.member, self._report_of(one, report)) for one in each]
        parts.sort(key=_by_growth)
        shares = _shares(chosen.stack_ids, each)
        return replace(
            report,
            target=replace(target, pids=target.pids or tuple(member.pid for member in members)),
            sites=tuple(
                replace(site, processes=shares.get(stack_id, ()))
                for site, stack_id in zip(report.sites, chosen.stack_ids, strict=True)
            ),
            remarks=(*remarks, *_remarks_of(parts)),
            processes=tuple(_line(member, part) for member, part in parts),
            by_process=(
                tuple(replace(part, remarks=()) for _, part in parts) if self._shows_each else ()
            ),
        )

    @property
    def _shows_each(self) -> bool:
        return self._options.report.by is By.PROCESS

    def _become_family(self) -> None:
        """The second process has appeared: compare with the reports about the first one."""
        if self._is_family:
            return
        self._is_family = True
        # So that its sites keep their ids.
        self._same_sites.see(self._all.last_stack_ids, self._locations_of)
        self._all.rename(self._same_sites.first_of)
        if self._alone is not None:
            self._builder_of(self._alone).continue_from(self._all)
            self._pids = {self._alone.slot: self._alone.pid}
        self._all.leave_memory_out()

    def _keep_only(
        self, snapshot: Snapshot, stack_ids: NDArray[np.uint64], members: Sequence[Member]
    ) -> None:
        """Forget the stacks of processes that are gone, even if their slots were used again: then
        the same stack id may mean other code. Other stacks of the same site represent it from now
        on."""
        new = [member.slot for member in members if self._pids.get(member.slot) != member.pid]
        if new and snapshot.site_slots is not None:
            of_new = snapshot.site_ids[np.isin(snapshot.site_slots, new)]
            stack_ids = np.setdiff1d(stack_ids, of_new, assume_unique=True)
        successors = self._same_sites.keep_only(stack_ids.tolist())
        for builder in (self._all, *self._each.values()) if successors else ():
            builder.rename(lambda stack_id: successors.get(stack_id, stack_id))

    def _builder_of(self, member: Member) -> ReportBuilder:
        """The builder of reports about one process."""
        known = self._each.get(member.key)
        if known is not None:
            return known
        options = self._options
        if not self._shows_each:  # only its totals are needed
            totals = replace(options.report, top=0, recorded=0, show_allocs=False)
            options = replace(options, report=totals, suppressions=())

        def stack_of(stack_id: int) -> Stack:
            own = self._own_stacks.get(member.key, {})
            return self._stack_of(own.get(stack_id, stack_id))

        builder = ReportBuilder(
            options,
            lambda _: (),
            stack_of,
            measure=self._measure,
            objects=self._objects,
            watch=self._new_watch() if self._shows_each else None,
        )
        builder.sampling = self.sampling
        if self._shows_each:
            builder.held_by = lambda stack_id: self.held_by(stack_id, member.slot)
        self._each[member.key] = builder
        return builder

    def _count_each(
        self,
        snapshot: Snapshot,
        merged: Snapshot,
        members: Sequence[Member],
        *,
        target_ended: bool,
    ) -> list[_Counted]:
        first_of = self._same_sites.first_of
        owners = np.array([first_of(one) for one in snapshot.site_ids.tolist()], dtype=np.uint64)
        parts = split(snapshot, merged, owners, [member.slot for member in members])
        builders = {member.key: self._builder_of(member) for member in members}
        self._each = builders  # without those of processes that are no longer in the report
        return [
            _Counted(
                member,
                part,
                builders[member.key],
                builders[member.key].choose(
                    part.snapshot, member.memory, target_ended=target_ended
                ),
            )
            for member, part in zip(members, parts, strict=True)
        ]

    def _stacks_to_show(self, chosen: Chosen, each: Sequence[_Counted]) -> list[int]:
        self._own_stacks = {}
        creating = chosen.creating_threads[: self._options.report.most_sites]
        wanted = dict.fromkeys(chosen.stack_ids + creating)
        for one in each if self._shows_each else ():
            own = one.part.own_stacks()
            self._own_stacks[one.member.key] = own
            shown = one.chosen.stack_ids + one.chosen.creating_threads
            wanted |= dict.fromkeys(own.get(known, known) for known in shown)
        return list(wanted)

    def _report_of(self, one: _Counted, report: Report) -> Report:
        """The report about one process, as part of that about all."""
        member = one.member
        part = one.builder.compose(
            one.chosen,
            TargetInfo(member.pid, member.command),
            member.memory,
            member.of_programs or (lambda: _UNKNOWN_PROGRAMS),
            final_reason=report.reason if report.final else None,
        )
        return replace(
            part,
            time=report.time,
            elapsed_s=member.traced_s,
            number=report.number,
            ending=member.ending,
        )


def _anonymous_in(members: Sequence[Member]) -> MemoryGrowth | None:
    """What these processes hold together, at least. They may share files, and after a fork also the
    anonymous memory from before: that of the largest counts, and what the others have got since."""
    known = [member.memory for member in members if member.memory is not None]
    if not known:
        return None
    largest = max(known, key=lambda one: one.resident.anonymous)
    others = sum(max(one.since_attach.anonymous, 0) for one in known if one is not largest)
    return MemoryGrowth(
        MemoryKinds(anonymous=largest.resident.anonymous + others),
        MemoryKinds(anonymous=sum(one.since_attach.anonymous for one in known)),
    )


def _by_growth(part: tuple[Member, Report]) -> tuple[int, int, int]:
    """The most growing process first; what a new one holds is its growth."""
    member, report = part
    held = report.outstanding.bytes
    growth = held if report.growth_bytes is None else report.growth_bytes
    return -growth, -held, member.pid


def _line(member: Member, report: Report) -> ProcessLine:
    return ProcessLine(
        pid=member.pid,
        parent_pid=member.parent_pid,
        command=member.command,
        outstanding=report.outstanding,
        growth_bytes=report.growth_bytes,
        resident=report.resident,
        site_count=report.site_count,
        traced_s=member.traced_s,
        ending=member.ending,
        has_ended=member.has_ended,
        started_under_trace=member.started_under_trace,
    )


def _shares(
    stack_ids: Sequence[int], each: Sequence[_Counted]
) -> dict[int, tuple[ProcessShare, ...]]:
    """By stack id of the sites that are shown: which process holds how much, largest first."""
    shown = np.array(stack_ids, dtype=np.uint64)
    shares: dict[int, list[ProcessShare]] = {}
    for one in each:
        table = one.chosen.table
        for row in np.nonzero(np.isin(table.stack_ids, shown))[0].tolist():
            share = ProcessShare(one.member.pid, int(table.bytes[row]), int(table.counts[row]))
            shares.setdefault(int(table.stack_ids[row]), []).append(share)
    return {
        stack_id: tuple(sorted(some, key=lambda share: (-share.bytes, -share.count, share.pid)))
        for stack_id, some in shares.items()
    }


def _remarks_of(parts: Sequence[tuple[Member, Report]]) -> Iterator[Remark]:
    """What there is to say about resident memory: of each kind, that of the process where it
    differs most, and in how many others it does. (The sum of what processes hold would count
    several times what they share.)"""
    found = [(remark, part) for part in parts for remark in part[1].remarks]
    found.sort(key=lambda one: -_difference(one[1][1]))
    for kind in dict.fromkeys(remark.kind for remark, _ in found):
        (remark, (member, _)), *others = (one for one in found if one[0].kind is kind)
        text = f"process {member.pid} ({member.command}): {remark.text}"
        if others:
            other = "process" if len(others) == 1 else "processes"
            text += f" (similar in {len(others)} other {other})"
        yield replace(remark, text=text)


def _difference(report: Report) -> int:
    grown = report.resident.since_attach_bytes if report.resident is not None else None
    return 0 if grown is None else abs(grown - report.outstanding.bytes)
