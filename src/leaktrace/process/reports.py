"""Makes the reports of one traced process."""

from __future__ import annotations

from dataclasses import replace

from leaktrace.analysis.builder import ReportBuilder
from leaktrace.model import Measure, Report
from leaktrace.options import ProcessOptions
from leaktrace.process.losses import describe_losses
from leaktrace.process.pair_reports import PairReports
from leaktrace.process.tracer import Tracer
from leaktrace.targets.memory_use import MemoryWatch


class ProcessReports:
    """Remembers what the next report is compared with."""

    def __init__(self, options: ProcessOptions, tracer: Tracer) -> None:
        self._options = options
        self._tracer = tracer
        self._names = tracer.traced.names
        self._builder = ReportBuilder(
            options,
            lambda snapshot: describe_losses(snapshot.losses, options.limits),
            self._names.stack_of,
            self._names.prepare,
            measure=Measure.FAULTS if options.faults else Measure.ALLOCATIONS,
            objects=options.objects,
        )
        self._pairs = [
            PairReports(options, tracer, pair, space)
            for space, pair in enumerate(options.pairs, start=1)
        ]
        self._memory = MemoryWatch(tracer.traced.pid)

    def start_clock(self) -> None:
        """Recording has begun."""
        self._builder.start_clock()
        for pair in self._pairs:
            pair.start_clock()
        if self._tracer.traced.command is None:  # a command is about to be executed
            self._memory.begin()

    def forget(self) -> None:
        """The process has executed another program."""
        self._builder.forget()
        for pair in self._pairs:
            pair.forget()
        self._memory.begin_program()

    def build(self, final_reason: str | None) -> Report:
        """A report of this moment. `final_reason`: why it is the last one; None: it isn't."""
        has_ended = not self._tracer.traced.process.is_alive()
        if final_reason is not None:
            self._names.expect_last_report()
        snapshot, info = self._tracer.snapshot(), self._tracer.info()
        sections = tuple(
            pair.build(one, info, target_ended=has_ended, final_reason=final_reason)
            for pair, one in zip(self._pairs, snapshot.sections, strict=True)
        )
        report = self._builder.build(
            snapshot,
            info,
            self._memory.look(),
            self._memory.of_programs,
            remarks=self._tracer.remarks(),
            target_ended=has_ended,
            final_reason=final_reason,
        )
        report = self._combined(report, sections)
        # Which names are missing is known only after the look-ups.
        notes = (*report.target.notes, *self._names.notes())
        ending = self._tracer.ending() if has_ended else None
        return replace(report, ending=ending, target=replace(report.target, notes=notes))

    def _combined(self, report: Report, sections: tuple[Report, ...]) -> Report:
        """The report with sections for pairs; without malloc, the first of them with the others."""
        if self._options.malloc:
            return replace(report, sections=sections)
        return replace(
            sections[0],
            sections=sections[1:],
            losses=report.losses,
            remarks=report.remarks,
        )

    # --- sampling --------------------------------------------------------------------------

    @property
    def is_sampled(self) -> bool:
        """Whether figures are estimates from a sample of the allocations."""
        return self._builder.sampling.is_on

    def throttle(self, rate: int) -> None:
        """Record one allocation in `rate` from now on, and weigh it accordingly."""
        self._builder.sampling = self._tracer.throttle(rate)
