"""Who frees the blocks of suspicious sites, for reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

from leaktrace.abi import process as abi
from leaktrace.analysis.family import FamilyBuilder
from leaktrace.analysis.trim import readable
from leaktrace.options import ReportOptions
from leaktrace.process.tracer import Tracer
from leaktrace.site import Releaser

_MOST_SHOWN = 3  # of one site


class ReleaseReports:
    """Watches the sites that the last report found suspicious. What is counted for several stack
    ids of one site, of several processes for example, is added up."""

    def __init__(self, tracer: Tracer, asked: ReportOptions) -> None:
        self._tracer = tracer
        self._asked = asked
        self._counts: dict[int, dict[int, int]] = {}

    def attach(self, builder: FamilyBuilder) -> None:
        """Let these reports say who frees the blocks of their sites."""
        builder.freed_at = lambda stack_id: self._freed_at(builder, stack_id)

    def look(self) -> None:
        """Read what was counted."""
        self._counts = self._tracer.releases()

    def prepare(self, builder: FamilyBuilder, stack_ids: Sequence[int]) -> None:
        """Look up the names of these stacks, and of those that free their blocks."""
        wanted = dict.fromkeys(stack_ids)
        for stack_id in stack_ids if self._counts else ():
            wanted |= dict.fromkeys(one for one, _ in self._most_frequent(builder, stack_id)[0])
        self._tracer.names.prepare(list(wanted))

    def watch(self, builders: Iterable[FamilyBuilder]) -> None:
        """Watch what their last reports found suspicious."""
        suspicious = [
            one
            for builder in builders
            for stack_id in builder.suspicious[: abi.WATCHES]
            for same in builder.all_of(stack_id)
            for one in self._tracer.all_of(same)
        ]
        self._tracer.watch_releases(suspicious)

    def _freed_at(self, builder: FamilyBuilder, stack_id: int) -> tuple[Releaser, ...]:
        if not self._counts:
            return ()
        most, total = self._most_frequent(builder, stack_id)
        return tuple(
            Releaser(readable(self._tracer.names.stack_of(one), self._asked), count, total)
            for one, count in most
        )

    def _most_frequent(
        self, builder: FamilyBuilder, stack_id: int
    ) -> tuple[list[tuple[int, int]], int]:
        """Stack ids with their counts, and the sum of all counts. Stacks that differ in addresses
        alone are one."""
        counts: Counter[Hashable] = Counter()
        firsts: dict[Hashable, int] = {}
        for watched, by_stack in self._counts.items():
            if builder.first_of(self._tracer.first_of(watched)) != stack_id:
                continue
            for one, count in by_stack.items():
                locations = self._tracer.names.locations_of(one)
                same: Hashable = one if locations is None else locations
                counts[same] += count
                firsts.setdefault(same, one)
        most = [(firsts[same], count) for same, count in counts.most_common(_MOST_SHOWN)]
        return most, counts.total()
