"""Makes the sections of a report that are not about malloc and mmap."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from leaktrace.analysis.family import FamilyBuilder, Member
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.analysis.verdicts.watch import SiteWatch
from leaktrace.memory import OTHER_MEMORY, Backing
from leaktrace.model import Report, TargetInfo
from leaktrace.options import By, Filters, ProcessOptions
from leaktrace.process.tracer import Tracer
from leaktrace.site import Stack

_SBRK = re.compile(r"(__GI_)?_*sbrk")  # of glibc; the debug information has another name


class SectionReports(ABC):
    """Remembers what the next section about one subject is compared with."""

    def __init__(
        self,
        options: ProcessOptions,
        tracer: Tracer,
        subject: str,
        noun: str,
        *,
        is_counted: bool = False,
        may_replace: bool = False,
    ) -> None:
        """`subject`: part of the ids of sites; `noun`: what is outstanding; `is_counted`: it has no
        size; `may_replace`: releases of older ones are counted."""
        self._subject = subject
        self._names = names = tracer.names
        self.builder = FamilyBuilder(
            # What is not malloc's is never sampled; only malloc is shown by process.
            replace(options, filters=Filters(), report=replace(options.report, by=By.SITE)),
            lambda _: (),  # losses are counted once, and reported with the first section
            self.stack_of,
            names.locations_of,
            names.prepare,
            new_watch=lambda: SiteWatch(noun, is_counted=is_counted, may_replace=may_replace),
        )

    def stack_of(self, stack_id: int) -> Stack:
        """The stack of a site."""
        return self._names.stack_of(stack_id)

    def start_clock(self) -> None:
        """Recording has begun."""
        self.builder.start_clock()

    def forget(self, slot: int) -> None:
        """A process has executed another program."""
        self.builder.forget(slot)

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
        report = self.builder.build(
            snapshot,
            target,
            [replace(member, memory=None) for member in members],
            None,
            target_ended=target_ended,
            final_reason=final_reason,
        )
        return self.completed(self._with_own_ids(report))

    @abstractmethod
    def completed(self, report: Report) -> Report:
        """The section with what it is about."""

    def _with_own_ids(self, report: Report) -> Report:
        """Sites get ids made from the stack and the subject: a wrapper may call several functions,
        and a call may map several kinds of memory."""
        listed = report.allocations
        return replace(
            report,
            sites=tuple(replace(site, id=self._own_id(site.id)) for site in report.sites),
            allocations=(
                None
                if listed is None
                else tuple(replace(one, site_id=self._own_id(one.site_id)) for one in listed)
            ),
        )

    def _own_id(self, site_id: str) -> str:
        text = f"{site_id} {self._subject}"
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


class MemoryReports(SectionReports):
    """Of shared memory, or of the program break."""

    def __init__(self, options: ProcessOptions, tracer: Tracer, backing: Backing) -> None:
        super().__init__(options, tracer, backing, "mapping")
        self._backing = backing

    def stack_of(self, stack_id: int) -> Stack:
        """The stack without sbrk, which calls brk: it begins at the caller of both."""
        stack = super().stack_of(stack_id)
        is_of_break = self._backing is Backing.BREAK and len(stack.frames) > 1
        if is_of_break and _SBRK.fullmatch(stack.frames[0].function or ""):
            return replace(stack, frames=stack.frames[1:])
        return stack

    def completed(self, report: Report) -> Report:
        """The section with what it is about."""
        return replace(report, section=OTHER_MEMORY[self._backing], backing=self._backing)
