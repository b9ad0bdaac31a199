"""Makes the reports of one traced process."""

from __future__ import annotations

from dataclasses import replace

from leaktrace.analysis.builder import ReportBuilder
from leaktrace.model import Measure, Report
from leaktrace.options import ProcessOptions
from leaktrace.process.losses import describe_losses
from leaktrace.process.tracer import Tracer
from leaktrace.targets.memory_use import MemoryWatch


class ProcessReports:
    """Remembers what the next report is compared with."""

    def __init__(self, options: ProcessOptions, tracer: Tracer) -> None:
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
        self._memory = MemoryWatch(tracer.traced.pid)

    def start_clock(self) -> None:
        """Recording has begun."""
        self._builder.start_clock()
        if self._tracer.traced.command is None:  # a command is about to be executed
            self._memory.begin()

    def forget(self) -> None:
        """The process has executed another program."""
        self._builder.forget()
        self._memory.begin_program()

    def build(self, final_reason: str | None) -> Report:
        """A report of this moment. `final_reason`: why it is the last one; None: it isn't."""
        has_ended = not self._tracer.traced.process.is_alive()
        if final_reason is not None:
            self._names.expect_last_report()
        report = self._builder.build(
            self._tracer.snapshot(),
            self._tracer.info(),
            self._memory.look(),
            self._memory.of_programs,
            remarks=self._tracer.remarks(),
            target_ended=has_ended,
            final_reason=final_reason,
        )
        # Which names are missing is known only after the look-ups.
        notes = (*report.target.notes, *self._names.notes())
        ending = self._tracer.ending() if has_ended else None
        return replace(report, ending=ending, target=replace(report.target, notes=notes))

    # --- sampling --------------------------------------------------------------------------

    @property
    def is_sampled(self) -> bool:
        """Whether figures are estimates from a sample of the allocations."""
        return self._builder.sampling.is_on

    def throttle(self, rate: int) -> None:
        """Record one allocation in `rate` from now on, and weigh it accordingly."""
        self._builder.sampling = self._tracer.throttle(rate)
