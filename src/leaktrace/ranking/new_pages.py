"""Counts the page faults of all processes by a BPF program: how many pages each touches for the
first time, also of processes that no look at /proc sees, because they end too soon.

A software perf event on each CPU runs the program (perf_event_open(2), PERF_COUNT_SW_PAGE_FAULTS).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leaktrace.abi import common
from leaktrace.abi import ranking as abi
from leaktrace.bpf import links, syscalls
from leaktrace.bpf.build import ImageRequest
from leaktrace.bpf.load import Loaded, ProgramKind, load
from leaktrace.bpf.maps import Map
from leaktrace.errors import AS_ROOT_OR_DOCTOR, EnvironmentUnfitError, reason
from leaktrace.ranks import EndedCommand
from leaktrace.targets.namespaces import pids_are_global
from leaktrace.tracing.opening import closed_on_failure

RANKING_FRAGMENTS = (
    "shared/types.h",
    "ranking/types.h",
    "shared/config.h",
    "shared/helpers.bpf.c",
    "ranking/ranking.bpf.c",
)

_ONLINE_CPUS = Path("/sys/devices/system/cpu/online")
_CAPACITY = 65_536  # running processes
_ON_FAULT = "on_fault"
_TRACEPOINTS = ("sched_process_exit", "sched_process_exec")


@dataclass(frozen=True)
class Touched:
    """What a running process has done since counting began."""

    faults: int
    executed: bool  # it has executed a program


@dataclass(frozen=True)
class PageCounts:
    """The counters at one moment."""

    running: dict[int, Touched]  # by pid
    ended_count: int
    ended_faults: int
    ended: tuple[EndedCommand, ...]
    lost_faults: int
    lost_commands: int


class NewPages:
    """The counters, from `open_new_pages` to `close()`."""

    def __init__(self, loaded: Loaded, capacity: int, attached: ExitStack) -> None:
        """`attached` closes everything, `loaded` too."""
        self.programs = loaded.programs
        self._attached = attached
        self._cpus: set[int] = set()
        maps = loaded.maps
        name = np.dtype(f"S{abi.COMMAND_BYTES}")
        self._touched = Map("touched", maps["touched"], common.U32, abi.TOUCHED, capacity)
        self._ended = Map("ended", maps["ended"], name, abi.ENDED, abi.ENDED_COMMANDS)
        self._total = Map("ended_total", maps["ended_total"], common.U32, abi.ENDED, 1)
        self._losses = Map("losses", maps["losses"], common.U32, common.U64, abi.RANKING_LOSS_KINDS)
        self._removed_faults = 0  # of processes that ended without their first thread's end seen

    def attach(self) -> None:
        """Count from now on. Raises EnvironmentUnfitError."""
        try:
            for name in _TRACEPOINTS:
                link = links.attach_raw_tracepoint(self.programs[f"at_{name}"], name)
                self._attached.callback(os.close, link)
            self.follow_cpus()
        except OSError as error:
            raise EnvironmentUnfitError(
                f"the kernel refuses page fault events of all processes: "
                f"{reason(error.errno or errno.EPERM)}",
                AS_ROOT_OR_DOCTOR,
            ) from None

    def expect(self, pids: Iterable[int]) -> None:
        """These processes are running: their end counts even if they touch nothing before."""
        nothing = np.zeros(1, dtype=abi.TOUCHED)
        for pid in pids:
            self._touched.insert(pid, nothing)

    def follow_cpus(self) -> None:
        """Also count on CPUs that have come online. Raises OSError."""
        for cpu in _online_cpus() - self._cpus:
            try:
                events = links.attach_all_page_faults(self.programs[_ON_FAULT], cpu)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    continue  # it went offline again
                raise
            for event in events:
                self._attached.callback(os.close, event)
            self._cpus.add(cpu)

    def read(self) -> PageCounts:
        """Read every counter. Raises ProgramError."""
        pids, touched = self._touched.read_all()
        names, ended = self._ended.read_all()
        total, lost = self._total.lookup(0), self._losses.read_all()[1]
        assert total is not None
        return PageCounts(
            running={
                int(pid): Touched(int(one["faults"]), bool(one["executed"]))
                for pid, one in zip(pids, touched, strict=True)
            },
            ended_count=int(total["processes"]),
            ended_faults=int(total["faults"]) + self._removed_faults,
            ended=tuple(
                EndedCommand(
                    bytes(name).decode(errors="surrogateescape"),
                    int(one["processes"]),
                    int(one["faults"]),
                )
                for name, one in zip(names, ended, strict=True)
            ),
            lost_faults=int(lost[abi.RankingLossKind.FAULTS]),
            lost_commands=int(lost[abi.RankingLossKind.COMMANDS]),
        )

    def remove(self, pid: int, faults: int) -> None:
        """Remove the counter of a process that has ended: one of its other threads touched pages
        after the first thread's end. It is already counted as ended."""
        if self._touched.remove(pid):
            self._removed_faults += faults

    def close(self) -> None:
        """Detach, and close every map."""
        self._attached.close()


def open_new_pages(capacity: int = _CAPACITY) -> NewPages:
    """Compile or find the program, load it, and count from now on.

    `capacity`: how many running processes there is room for. Raises LeaktraceError where it isn't
    possible.
    """
    if not pids_are_global():
        raise EnvironmentUnfitError(
            "leaktrace runs in a PID namespace, and the kernel counts by the host's pids",
            "run it on the host, or in a container with --pid=host",
        )
    programs = [ProgramKind(_ON_FAULT, syscalls.PROG_TYPE_PERF_EVENT)]
    programs += [
        ProgramKind(f"at_{name}", syscalls.PROG_TYPE_RAW_TRACEPOINT) for name in _TRACEPOINTS
    ]
    with closed_on_failure() as stack:
        image = ImageRequest(RANKING_FRAGMENTS, {})
        stack.callback(image.abandon)
        loaded = load(image.finish(), programs, {"touched": capacity})
        stack.callback(loaded.close)
        pages = NewPages(loaded, capacity, stack)
        pages.attach()
        return pages


def _online_cpus() -> set[int]:
    """The file says "0-3" or "0,2-5"."""
    cpus: set[int] = set()
    for part in _ONLINE_CPUS.read_text().strip().split(","):
        first, _, last = part.partition("-")
        cpus |= set(range(int(first), int(last or first) + 1))
    return cpus
