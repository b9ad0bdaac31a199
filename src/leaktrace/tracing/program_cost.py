"""What tracing costs where probes have no trap (tracepoints, software events): the run time of
their programs is the whole cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from leaktrace.model import Cost
from leaktrace.tracing.cost import OwnUse, ProgramTimes, ProgramUse


class ProgramCostMeter:
    """Measures from one report to the next."""

    def __init__(self, programs: Mapping[str, int], *, measure_programs: bool) -> None:
        """`programs`: file descriptors by name; `measure_programs`: ask the kernel for their run
        times."""
        self._times: ProgramTimes | None = None
        if measure_programs:
            try:
                self._times = ProgramTimes(programs)
            except OSError:
                self._times = None  # leaktrace's own figures are still measured
        self._last = self._read()

    def measure(self) -> Cost:
        """The cost since the last call."""
        (own, programs), (last_own, last_programs) = self._read(), self._last
        self._last = own, programs
        cost = own.cost_since(last_own)
        if self._times is None:
            return cost
        elapsed_s = own.elapsed_s_since(last_own)
        return replace(
            cost,
            events_per_s=(programs.run_count - last_programs.run_count) / elapsed_s,
            programs_s_per_s=(programs.run_time_ns - last_programs.run_time_ns) / 1e9 / elapsed_s,
        )

    def close(self) -> None:
        """Stop measuring."""
        if self._times is not None:
            self._times.close()
            self._times = None

    def _read(self) -> tuple[OwnUse, ProgramUse]:
        uses = [] if self._times is None else list(self._times.read().values())
        total = ProgramUse(sum(use.run_time_ns for use in uses), sum(use.run_count for use in uses))
        return OwnUse.now(), total
