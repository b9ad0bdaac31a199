"""Makes the reports of the kernel."""

from __future__ import annotations

from leaktrace.kernel.report_builder import KernelReportBuilder
from leaktrace.kernel.tracer import KernelTracer
from leaktrace.model import Report
from leaktrace.options import KernelOptions


class KernelReports:
    """Remembers what the next report is compared with."""

    def __init__(self, options: KernelOptions, tracer: KernelTracer) -> None:
        self._tracer = tracer
        self._builder = KernelReportBuilder(options, tracer.plan, tracer.stacks.stack_of)

    def start_clock(self) -> None:
        """Recording has begun."""
        self._builder.start_clock()

    def forget(self) -> None:
        """The kernel never becomes another program: there is nothing to forget."""

    def build(self, final_reason: str | None) -> Report:
        """A report of this moment. `final_reason`: why it is the last one; None: it isn't."""
        return self._builder.build(self._tracer.snapshot(), self._tracer.info(), final_reason)
