"""What tracing costs, as far as both modes measure it the same way: leaktrace's own use of the CPU
and memory, and the run time of its BPF programs.

The kernel measures how long BPF programs run only on request (bpf(2), BPF_ENABLE_STATS), because
that costs a little itself.
"""

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
class OwnUse:
    """leaktrace's CPU time in seconds, at a time of time.monotonic_ns()."""

    time_ns: int
    cpu_s: float

    @classmethod
    def now(cls) -> OwnUse:
        return cls(time.monotonic_ns(), time.process_time())

    def elapsed_s_since(self, last: OwnUse) -> float:
        """Never zero."""
        return max((self.time_ns - last.time_ns) / 1e9, 1e-9)

    def cost_since(self, last: OwnUse) -> Cost:
        """The share of one CPU since `last`, and the memory that is resident now."""
        return Cost(
            own_cpu_share=(self.cpu_s - last.cpu_s) / self.elapsed_s_since(last),
            own_resident_bytes=_own_resident_bytes(),
        )


@dataclass(frozen=True)
class ProgramUse:
    """Run time and runs since a program was loaded."""

    run_time_ns: int
    run_count: int


class ProgramTimes:
    """Run times of BPF programs, measured until `close()`."""

    def __init__(self, programs: Mapping[str, int]) -> None:
        """`programs`: file descriptors by name. Raises OSError when the kernel is too old
        (Linux 5.8) or does not permit it."""
        self._programs = programs
        self._stats = syscalls.enable_run_time_stats()

    def read(self) -> dict[str, ProgramUse]:
        """By the program's name."""
        infos = {name: syscalls.program_info(fd) for name, fd in self._programs.items()}
        return {name: ProgramUse(i.run_time_ns, i.run_count) for name, i in infos.items()}

    def close(self) -> None:
        """Stop measuring."""
        if self._stats >= 0:
            os.close(self._stats)
            self._stats = -1


def _own_resident_bytes() -> int:
    """From /proc/self/statm (proc(5))."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
