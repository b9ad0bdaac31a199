"""Makes the section of a report that is about file descriptors (--fds).

The kernel side's records say which code opened what. What the process itself says in /proc has the
last word: a descriptor that is not open is not shown, however it was closed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi import process as abi
from leaktrace.analysis.family import Member as Counted
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.model import DescriptorInfo, DescriptorUse, Report, TargetInfo
from leaktrace.options import ProcessOptions
from leaktrace.process.descriptor_calls import Kind
from leaktrace.process.member import Member
from leaktrace.process.section_reports import SectionReports
from leaktrace.process.tracer import Tracer
from leaktrace.site import Allocation, OpenDescriptor, Site
from leaktrace.targets.open_files import (
    kind_of_target,
    target_of,
)

SECTION = "file descriptors"
_EXAMPLES = 3  # of each site
_MOST_LOOKED_UP = 2_000  # descriptors of which only /proc knows what they are, in one report
_BY_ORIGIN = {Kind.UNKNOWN, Kind.DUPLICATE, Kind.RECEIVED}  # these may be anything


@dataclass
class _Looked:
    """The open descriptors of one process."""

    older: frozenset[int] | None  # when tracing began, or its last program did; None: unknown
    before: frozenset[int] | None = None  # before the maps were read


class DescriptorReports(SectionReports):
    """Remembers what the next section is compared with."""

    def __init__(self, options: ProcessOptions, tracer: Tracer) -> None:
        listing = replace(options, report=replace(options.report, show_allocs=True))
        super().__init__(listing, tracer, SECTION, "descriptor", is_counted=True)
        self._tracer = tracer
        self._space = options.descriptor_space
        self._lists_all = options.report.show_allocs
        self._looked: dict[tuple[int, int], _Looked] = {}  # by slot and pid
        # Of the last report: by slot, number and when it was opened.
        self._targets: dict[tuple[int, int, int], str] = {}

    def start_clock(self) -> None:
        """Recording has begun."""
        super().start_clock()
        self.look()

    def forget(self, slot: int) -> None:
        """A process has executed another program."""
        super().forget(slot)
        for key in [key for key in self._looked if key[0] == slot]:
            del self._looked[key]
        self.look()

    def look(self) -> None:
        """See what is open. A report needs that from before its maps are read: what is opened
        while they are read has no record."""
        known, self._looked = self._looked, {}
        for member in self._tracer.family:
            key = member.number, member.pid
            found = member.traced.files.descriptors(has_ended=member.has_ended)
            at_start = member.traced.files.at_start
            one = known.get(key) or _Looked(found if at_start is None else at_start)
            one.before = found
            self._looked[key] = one

    def build(
        self,
        snapshot: Snapshot,
        target: TargetInfo,
        members: Sequence[Counted],
        *,
        target_ended: bool,
        final_reason: str | None,
    ) -> Report:
        """The section of this moment."""
        family = list(self._tracer.family)
        open_now = {
            one.number: one.traced.files.descriptors(has_ended=one.has_ended) for one in family
        }
        snapshot, kinds = _without_closed(snapshot, family, open_now)
        # Now: naming the sites may take a while.
        readable = {
            one.number: one.pid
            for one in family
            if open_now[one.number] is not None and not one.has_ended
        }
        targets, self._targets = _targets(snapshot, kinds, readable, self._targets)
        report = super().build(
            snapshot, target, members, target_ended=target_ended, final_reason=final_reason
        )
        describing = _Describing(kinds, targets, {one.pid: one.number for one in family})
        listed = report.allocations or ()
        by_site: defaultdict[str, list[Allocation]] = defaultdict(list)
        for one in listed:
            by_site[one.site_id].append(one)
        return replace(
            report,
            sites=tuple(describing.site(one, by_site[one.id]) for one in report.sites),
            allocations=listed if self._lists_all else None,
            descriptors=self._info(kinds, family, open_now),
        )

    def completed(self, report: Report) -> Report:
        """The section with what it is about."""
        return replace(report, section=SECTION)

    def _info(
        self,
        kinds: dict[tuple[int, int], Kind],
        family: Sequence[Member],
        open_now: dict[int, frozenset[int] | None],
    ) -> DescriptorInfo:
        recorded: defaultdict[int, set[int]] = defaultdict(set)
        for slot, number in kinds:
            recorded[slot].add(number)
        use = []
        for member in family:
            present, looked = open_now[member.number], self._looked.get((member.number, member.pid))
            if present is None or looked is None:
                continue
            others = present & (looked.before or frozenset()) - recorded[member.number]
            # Where that isn't known, what has no record is taken for older.
            older = others if looked.older is None else others & looked.older
            use.append(
                DescriptorUse(
                    pid=member.pid,
                    open_count=len(present),
                    limit=member.traced.files.limit(has_ended=member.has_ended),
                    older=len(older),
                    unexplained=len(others - older),
                    has_executed=member.traced.generation > 0,
                )
            )
        calls = self._tracer.pair_calls(self._space)
        return DescriptorInfo(tuple(use), int(calls["returned_again"]))


def _without_closed(
    snapshot: Snapshot, family: Sequence[Member], open_now: dict[int, frozenset[int] | None]
) -> tuple[Snapshot, dict[tuple[int, int], Kind]]:
    """The descriptors that are still open, and what they are, by slot and number."""
    records, numbers, slots = snapshot.records, snapshot.addresses, snapshot.record_slots
    assert slots is not None  # process mode has them
    is_open = np.ones(len(records), dtype=bool)
    for member in family:
        rows = np.nonzero(slots == member.number)[0]
        if not len(rows):
            continue
        own = _outside(member.traced.slot.closed_ranges(), numbers[rows], records["time_ns"][rows])
        present = open_now[member.number]
        if present is not None:
            own &= np.isin(numbers[rows], np.array(sorted(present), dtype=np.uint64))
        is_open[rows] = own
    chosen = records[is_open].copy()
    codes = (chosen["size"] >> np.uint64(abi.DESCRIPTOR_KIND_SHIFT)).tolist()
    chosen["size"] = 1
    numbers, slots = numbers[is_open], slots[is_open]
    kinds = {
        (slot, number): Kind.of(code)
        for slot, number, code in zip(slots.tolist(), numbers.tolist(), codes, strict=True)
    }
    counted = replace(
        snapshot,
        records=chosen,
        addresses=numbers,
        record_slots=slots,
        freed_is_counted=False,  # what isn't open was closed
    )
    return counted, kinds


def _outside(
    ranges: NDArray[np.void], numbers: NDArray[np.uint64], times_ns: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Which descriptors no call of close_range has closed."""
    found = np.ones(len(numbers), dtype=bool)
    for one in ranges:
        is_within = (numbers >= one["first"]) & (numbers <= one["last"])
        found &= ~(is_within & (times_ns < one["time_ns"]))
    return found


def _targets(
    snapshot: Snapshot,
    kinds: dict[tuple[int, int], Kind],
    readable: dict[int, int],
    last: dict[tuple[int, int, int], str],
) -> tuple[dict[tuple[int, int], str], dict[tuple[int, int, int], str]]:
    """What the oldest descriptors of each stack lead to, and those of which nothing else is known;
    by slot and number, and in the form in which the last report had them: of a process that has
    ended, this is still known. `readable`: the pids of the others, by slot."""
    assert snapshot.record_slots is not None
    order = np.lexsort((snapshot.addresses, snapshot.records["time_ns"]))
    seen: Counter[int] = Counter()
    found: dict[tuple[int, int], str] = {}
    kept: dict[tuple[int, int, int], str] = {}
    of_records = (snapshot.records["stack_id"], snapshot.records["time_ns"])
    columns = (*of_records, snapshot.record_slots, snapshot.addresses)
    rows = zip(*(column[order].tolist() for column in columns), strict=True)
    looked_up = 0
    for stack_id, time_ns, slot, number in rows:
        seen[stack_id] += 1
        if seen[stack_id] > _EXAMPLES and kinds[slot, number] not in _BY_ORIGIN:
            continue
        if slot in readable:
            looked_up += 1
            if looked_up > _MOST_LOOKED_UP:
                continue
            target = target_of(readable[slot], number)
        else:
            target = last.get((slot, number, time_ns))
        if target is not None:
            found[slot, number] = kept[slot, number, time_ns] = target
    return found, kept


@dataclass(frozen=True)
class _Describing:
    """Says what the descriptors of sites are."""

    kinds: dict[tuple[int, int], Kind]  # by slot and number
    targets: dict[tuple[int, int], str]
    slots: dict[int, int]  # by pid

    def site(self, site: Site, own: Sequence[Allocation]) -> Site:
        """A site with its kinds, and the oldest descriptors."""
        counts = Counter(self._kind(self._key(one)) for one in own)
        oldest = sorted(own, key=lambda one: (-one.age_ns, one.address))[:_EXAMPLES]
        return replace(
            site, kinds=tuple(counts.most_common()), examples=tuple(map(self._example, oldest))
        )

    def _key(self, one: Allocation) -> tuple[int, int]:
        """Of the only process, if it doesn't say of which."""
        slot = next(iter(self.slots.values())) if one.pid is None else self.slots[one.pid]
        return slot, one.address

    def _kind(self, key: tuple[int, int]) -> str:
        kind, target = self.kinds[key], self.targets.get(key)
        if kind in _BY_ORIGIN and target is not None:
            return kind_of_target(target) or kind.shown
        return kind.shown

    def _example(self, one: Allocation) -> OpenDescriptor:
        key = self._key(one)
        return OpenDescriptor(
            number=one.address,
            kind=self._kind(key),
            age_ns=one.age_ns,
            target=self.targets.get(key),
            pid=one.pid,
        )
