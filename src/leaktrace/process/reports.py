"""Makes the reports of the traced processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from leaktrace.analysis.family import FamilyBuilder
from leaktrace.analysis.family import Member as Counted
from leaktrace.analysis.verdicts.watch import SiteWatch
from leaktrace.memory import OTHER_MEMORY, Backing
from leaktrace.model import Measure, Report
from leaktrace.options import Lost, ProcessOptions
from leaktrace.process.contents import ContentsReader
from leaktrace.process.descriptor_reports import DescriptorReports
from leaktrace.process.go_reports import GoSummaries
from leaktrace.process.holder_reports import HolderReports
from leaktrace.process.idle import IdlePages
from leaktrace.process.losses import describe_losses
from leaktrace.process.lost import LostBlocks
from leaktrace.process.member import Member
from leaktrace.process.older_blocks import OlderBlocksReports
from leaktrace.process.pair_reports import PairReports
from leaktrace.process.release_reports import ReleaseReports
from leaktrace.process.section_reports import MemoryReports
from leaktrace.process.tracer import Tracer


class ProcessReports:
    """Remembers what the next report is compared with."""

    def __init__(self, options: ProcessOptions, tracer: Tracer) -> None:
        self._options = options
        self._tracer = tracer
        self._descriptors = DescriptorReports(options, tracer) if options.fds else None
        self._sections: list[PairReports | DescriptorReports] = [
            PairReports(options, tracer, pair, space)
            for space, pair in enumerate(options.pairs, start=1)
        ]
        # With --faults and --no-malloc none of its functions is hooked.
        is_hooked = options.malloc and not options.faults
        self._memory = {
            backing: MemoryReports(options, tracer, backing)
            for backing in OTHER_MEMORY
            if is_hooked and (backing is not Backing.BREAK or tracer.knows_break)
        }
        if self._descriptors is not None:
            self._sections.append(self._descriptors)
        self._builder = FamilyBuilder(
            options,
            lambda snapshot: describe_losses(snapshot.losses, options.limits),
            tracer.names.stack_of,
            tracer.names.locations_of,
            self._prepare,
            measure=Measure.FAULTS if options.faults else Measure.ALLOCATIONS,
            objects=options.objects,
            new_watch=lambda: None if options.faults else SiteWatch(),
        )

        self._releases = ReleaseReports(tracer, options.report)
        # Each, with the builder of its reports. (Closing a descriptor is not followed.)
        self._watched = [self._builder]
        self._watched += [one.builder for one in self._sections if isinstance(one, PairReports)]
        for builder in self._watched:
            self._releases.attach(builder)
        self._lost = None
        if options.lost is not None:
            self._lost = LostBlocks(
                tracer,
                options.report.older_ms,
                options.limits,
                options.max_pause_ms,
                asks_holders=options.holders,
            )
        self._older = None
        if options.heap is not None:
            self._older = OlderBlocksReports(
                tracer,
                options.heap,
                options.heap_pause_ms,
                options.limits,
                is_sampled=lambda: self.is_sampled,
            )
        self._holders = None
        if self._lost is not None and options.holders:
            self._holders = HolderReports(tracer, self._lost, options.report)
            self._holders.attach(self._builder)
        # Reading memory is use of it.
        self._go = None if options.idle_s is not None else GoSummaries(tracer)
        self._contents = ContentsReader(tracer, self._builder) if options.contents else None
        self._idle = None if options.idle_s is None else IdlePages(tracer, options.idle_s)

    def start_clock(self) -> None:
        """Recording has begun."""
        self._builder.start_clock()
        for section in (*self._sections, *self._memory.values()):
            section.start_clock()

    def forget(self) -> None:
        """A process has executed another program."""
        for number in self._tracer.take_executed():
            self._builder.forget(number)
            for section in (*self._sections, *self._memory.values()):
                section.forget(number)

    def build(self, final_reason: str | None) -> Report:
        """A report of this moment. `final_reason`: why it is the last one; None: it isn't."""
        family, names = self._tracer.family, self._tracer.names
        if self._idle is not None:  # before memory is read, which counts as use
            self._idle.look(self._pump, is_last=final_reason is not None)
        older = self._older
        if older is not None and not older.begin(is_last=final_reason is not None):
            older = None
        if self._lost is not None and (
            self._options.lost is Lost.EVERY or final_reason is not None
        ):
            self._lost.look(self._pump, older)
        if older is not None:
            older.look(self._pump)
        if self._go is not None:
            self._go.look(self._pump, is_last=final_reason is not None)
        has_ended = family.notice_ends()
        if final_reason is not None:
            names.expect_last_report()
        if self._descriptors is not None:
            self._descriptors.look()
        snapshot = self._tracer.snapshot()
        if self._lost is not None:
            snapshot = self._lost.add_to(snapshot)
        if self._holders is not None:
            self._holders.look()
        if self._idle is not None:
            snapshot = self._idle.add_to(snapshot)
        self._releases.look()
        members, first = list(family), family.first
        info, counted = self._tracer.info(), [_counted(member) for member in members]
        sections = tuple(
            each.build(one, info, counted, target_ended=has_ended, final_reason=final_reason)
            for each, one in zip(self._sections, snapshot.sections, strict=True)
        )
        memory = tuple(
            self._memory[backing].build(
                one, info, counted, target_ended=has_ended, final_reason=final_reason
            )
            for backing, one in zip(OTHER_MEMORY, snapshot.other_memory, strict=True)
            if backing in self._memory
        )
        report = self._builder.build(
            snapshot,
            info,
            counted,
            first.memory.look(),
            first.memory.of_programs,
            remarks=self._tracer.remarks(),
            target_ended=has_ended,
            final_reason=final_reason,
        )
        if self._lost is not None:
            report = self._lost.describe(report, snapshot.time_ns)
        if older is not None:
            report = older.describe(report, snapshot.time_ns)
        if self._go is not None:
            report = self._go.describe(report)
        if self._contents is not None:
            report = self._contents.add_to(report, snapshot)
        if self._idle is not None:
            report = self._idle.describe(report)
        report = self._combined(replace(report, other_memory=memory), sections)
        self._releases.watch(self._watched)
        # Which names are missing is known only after the look-ups.
        notes = (*report.target.notes, *names.notes())
        ending = first.ending() if has_ended and len(members) == 1 else None
        family.forget_reported()
        return replace(report, ending=ending, target=replace(report.target, notes=notes))

    def _prepare(self, stack_ids: Sequence[int]) -> None:
        """Look up the names that the next report needs."""
        if self._holders is not None:
            more = self._holders.sites_on_paths(self._builder, stack_ids)
            stack_ids = list(dict.fromkeys([*stack_ids, *more]))
        self._releases.prepare(self._builder, stack_ids)

    def _pump(self) -> None:
        """Take in what the kernel side sends while a report takes long, but for traced calls."""
        _, executed = self._tracer.pump(0)
        if executed:
            self.forget()

    def _combined(self, report: Report, sections: tuple[Report, ...]) -> Report:
        """The report with its sections; without malloc, the first of them with the others."""
        if self._options.malloc:
            return replace(report, sections=sections)
        remarks = self._tracer.remarks()  # without those that compare malloc with the memory
        return replace(sections[0], sections=sections[1:], losses=report.losses, remarks=remarks)

    # --- sampling --------------------------------------------------------------------------

    @property
    def is_sampled(self) -> bool:
        """Whether figures are estimates from a sample of the allocations."""
        return self._builder.sampling.is_on

    def throttle(self, rate: int) -> None:
        """Record one allocation in `rate` from now on, and weigh it accordingly."""
        self._builder.sampling = self._tracer.throttle(rate)


def _counted(member: Member) -> Counted:
    """A process as the analysis counts it."""
    traced, memory = member.traced, member.memory
    return Counted(
        slot=member.number,
        pid=member.pid,
        parent_pid=member.parent_pid,
        command=traced.process.read_name(),
        memory=None if member.has_ended else memory.look(),
        ending=member.ending() if member.has_ended else None,
        has_ended=member.has_ended,
        traced_s=member.traced_s,
        started_under_trace=traced.command is not None or traced.generation > 0,
        of_programs=memory.of_programs,
    )
