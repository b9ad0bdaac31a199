"""Makes the sections of a report that are about shared memory and the program break."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from leaktrace.analysis.family import FamilyBuilder, Member
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.model import OTHER_MEMORY, Backing, Report, TargetInfo
from leaktrace.options import By, Filters, ProcessOptions
from leaktrace.process.tracer import Tracer


class MemoryReports:
    """Remembers what the next section about one kind of memory is compared with."""

    def __init__(self, options: ProcessOptions, tracer: Tracer, backing: Backing) -> None:
        self._backing = backing
        names = tracer.names
        self._builder = FamilyBuilder(
            # Mapped memory is never sampled; only malloc is shown by process.
            replace(options, filters=Filters(), report=replace(options.report, by=By.SITE)),
            lambda _: (),  # losses are counted once, and reported with the first section
            names.stack_of,
            names.locations_of,
            names.prepare,
        )

    def start_clock(self) -> None:
        """Recording has begun."""
        self._builder.start_clock()

    def forget(self, slot: int) -> None:
        """A process has executed another program."""
        self._builder.forget(slot)

    def build(
        self,
        snapshot: Snapshot,
        target: TargetInfo,
        members: Sequence[Member],
        *,
        target_ended: bool,
        final_reason: str | None,
    ) -> Report:
        """The section of this moment, as for `FamilyBuilder.build`."""
        report = self._builder.build(
            snapshot,
            target,
            [replace(member, memory=None) for member in members],
            None,
            target_ended=target_ended,
            final_reason=final_reason,
        )
        listed = report.allocations
        return replace(
            report,
            section=OTHER_MEMORY[self._backing],
            backing=self._backing,
            sites=tuple(replace(site, id=self._own_id(site.id)) for site in report.sites),
            allocations=(
                None
                if listed is None
                else tuple(replace(one, site_id=self._own_id(one.site_id)) for one in listed)
            ),
        )

    def _own_id(self, site_id: str) -> str:
        """Sites get ids made from stack and kind: the same call may map other memory, too."""
        text = f"{site_id} {self._backing}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
