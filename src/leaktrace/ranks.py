"""The values of a ranking of all processes, which `leaktrace.ranking` makes and reports print."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from leaktrace.memory import MemoryKinds
from leaktrace.model import Cost, Loss


@dataclass(frozen=True)
class ProcessMemory:
    """What a process holds, or its change, in bytes."""

    resident: MemoryKinds = field(default_factory=MemoryKinds)
    besides: int = 0  # not resident: swapped out, or in huge pages of hugetlbfs

    @property
    def own(self) -> int:
        """Without the pages of files, which the kernel can drop and read again."""
        return self.resident.anonymous + self.resident.shared + self.besides

    def since(self, first: ProcessMemory) -> ProcessMemory:
        """The change since another moment."""
        return ProcessMemory(self.resident.since(first.resident), self.besides - first.besides)


@dataclass(frozen=True)
class RankedProcess:
    """One process of a ranking. Its growth is that of `ProcessMemory.own`.

    The growth of a process that was there at the start of the ranking counts from then. That of a
    new one counts from its own start if it has executed a program, and otherwise from when it was
    first seen: a fork shares memory with its parent.
    """

    pid: int
    command: str  # the process's name
    unit: str  # the systemd unit or container that it is in, "" if none
    age_s: float
    is_new: bool  # it started after the ranking
    watched_s: float  # how long its growth counts
    memory: ProcessMemory
    growth: ProcessMemory
    since_previous_bytes: int | None = None  # growth; None in the first report
    new_pages: int | None = None  # page faults since the start; None if they aren't counted
    new_pages_per_s: float | None = None  # since the previous report

    @property
    def growth_bytes(self) -> int:
        return self.growth.own

    @property
    def growth_bytes_per_minute(self) -> float:
        return self.growth_bytes * 60 / self.watched_s if self.watched_s > 0 else 0.0


@dataclass(frozen=True)
class EndedCommand:
    """Processes that have ended, by their last name."""

    command: str
    count: int
    new_pages: int


@dataclass(frozen=True)
class EndedProcesses:
    """What has ended since the start of a ranking. Without a count of page faults only processes
    that a report has seen are known."""

    count: int
    held_bytes: int  # when they were last seen; processes that were never seen are not included
    new_pages: int | None = None
    commands: tuple[EndedCommand, ...] = ()  # those with the most new pages


@dataclass(frozen=True)
class MachineMemory:
    """Figures of /proc/meminfo, or their change, in bytes."""

    available: int = 0
    anonymous: int = 0
    shared: int = 0
    swapped: int = 0
    slab: int = 0  # unreclaimable
    slab_caches: int = 0  # reclaimable slabs
    percpu: int = 0
    vmalloc: int = 0

    @property
    def processes(self) -> int:
        """Memory of processes. What several processes share counts once."""
        return self.anonymous + self.shared + self.swapped

    @property
    def kernel(self) -> int:
        """Memory that the kernel allocated for itself and can't drop."""
        return self.slab + self.percpu + self.vmalloc


@dataclass(frozen=True)
class Ranking:
    """The processes of the machine, by growth."""

    time: datetime
    elapsed_s: float  # since the start
    number: int  # 1 for the first
    final: bool
    reason: str  # why a final report is the last one; "" otherwise
    processes: tuple[RankedProcess, ...]  # the top ones that have grown or touched pages
    top: int  # how many were requested
    process_count: int
    grown_count: int
    other_growth_bytes: int  # of the processes that have grown and aren't in `processes`
    started_count: int  # since the start, and still running
    ended: EndedProcesses
    machine: MachineMemory
    machine_growth: MachineMemory
    losses: tuple[Loss, ...] = ()
    notes: tuple[str, ...] = ()
    cost: Cost | None = None
