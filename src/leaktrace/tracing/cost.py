"""What tracing the kernel costs: its BPF programs, and leaktrace itself."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from leaktrace.bpf import syscalls
from leaktrace.model import Cost

_PAGE_BYTES = os.sysconf("SC_PAGESIZE")


@dataclass(frozen=True)
class _Reading:
    time_ns: int
    own_cpu_s: float
    run_time_ns: int
    run_count: int


class KernelCostMeter:
    """Measures from one report to the next. Tracepoints have no trap: what their programs take is
    all they cost."""

    def __init__(self, programs: Mapping[str, int], *, measure_programs: bool) -> None:
        """`programs`: file descriptors by name; `measure_programs`: ask the kernel for their run
        times, which costs a little itself."""
        self._programs = programs
        self._stats: int | None = None
        if measure_programs:
            try:
                self._stats = syscalls.enable_run_time_stats()
            except OSError:
                self._stats = None  # too old: own figures all the same
        self._last = self._read()

    def measure(self) -> Cost:
        """The cost since the last call."""
        now, last = self._read(), self._last
        self._last = now
        elapsed_s = max((now.time_ns - last.time_ns) / 1e9, 1e-9)
        own_share = (now.own_cpu_s - last.own_cpu_s) / elapsed_s
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
        if self._stats is None:
            return Cost(own_cpu_share=own_share, own_resident_bytes=resident)
        return Cost(
            own_cpu_share=own_share,
            own_resident_bytes=resident,
            events_per_s=(now.run_count - last.run_count) / elapsed_s,
            programs_s_per_s=(now.run_time_ns - last.run_time_ns) / 1e9 / elapsed_s,
        )

    def close(self) -> None:
        """Stop measuring."""
        if self._stats is not None:
            os.close(self._stats)
            self._stats = None

    def _read(self) -> _Reading:
        times = os.times()
        run_time_ns = run_count = 0
        if self._stats is not None:
            for descriptor in self._programs.values():
                info = syscalls.program_info(descriptor)
                run_time_ns += info.run_time_ns
                run_count += info.run_count
        return _Reading(time.monotonic_ns(), times.user + times.system, run_time_ns, run_count)
