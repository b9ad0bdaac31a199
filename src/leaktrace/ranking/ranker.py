"""Ranks the processes of the machine by growth, each report compared with the start and with the
previous report."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from leaktrace.capabilities import Capability, is_granted
from leaktrace.errors import LeaktraceError
from leaktrace.model import Loss
from leaktrace.options import ReportOptions
from leaktrace.ranking.machine_memory import machine_growth, read_machine_memory
from leaktrace.ranking.new_pages import NewPages, PageCounts, open_new_pages
from leaktrace.ranking.processes import Scan, SeenProcess, scan, unit_of
from leaktrace.ranks import EndedProcesses, ProcessMemory, RankedProcess, Ranking

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_MOST_ENDED_COMMANDS = 5
_NOTHING = ProcessMemory()


@dataclass
class _Watched:
    """What a process is compared with."""

    first: ProcessMemory
    since_s: float  # on the clock of CLOCK_BOOTTIME: `first` is of then
    is_new: bool
    from_its_start: bool = False  # `first` is nothing, because it has executed a program since
    last: SeenProcess | None = None  # in the previous report
    last_faults: int = 0


class Ranker:
    """One run, from `begin()` to `close()`."""

    def __init__(self, options: ReportOptions, pages: NewPages | None, notes: list[str]) -> None:
        """`pages`: None where page faults can't be counted, which `notes` must say."""
        self._options = options
        self.pages = pages
        self._notes = [*notes, *_hidden_processes()]
        self._watched: dict[tuple[int, int], _Watched] = {}
        self._ended_count = 0
        self._ended_bytes = 0
        self._number = 0
        self._previous_s = self._started_s = 0.0
        self._scan = Scan({}, 0)
        self._first_machine = read_machine_memory()

    @property
    def process_count(self) -> int:
        """Of the last look."""
        return len(self._scan.processes)

    def begin(self) -> None:
        """Growth counts from now on. Raises LeaktraceError."""
        self._scan = scan()
        self._started_s = self._previous_s = now_s = _boot_time_s()
        for one in self._scan.processes.values():
            self._watched[one.key] = _Watched(one.memory, now_s, is_new=False, last=one)
        if self.pages is not None:
            self.pages.expect(self._scan.processes)
        self._first_machine = read_machine_memory()

    def rank(self, final_reason: str | None) -> Ranking:
        """The ranking of this moment. `final_reason`: why it is the last one; None: it isn't.

        Raises LeaktraceError.
        """
        counts = self._read_counts()
        self._scan = scan(self._scan)
        now_s, machine = _boot_time_s(), read_machine_memory()
        if counts is not None:
            self._remove_stale(counts)
        self._note_ended()
        ranked = [self._ranked(one, counts, now_s) for one in self._scan.processes.values()]
        grown = sorted(
            (one for one in ranked if one.growth_bytes > 0),
            key=lambda one: (-one.growth_bytes, -(one.new_pages or 0), one.pid),
        )
        top = grown[: self._options.top]
        self._number += 1
        ranking = Ranking(
            time=datetime.now(UTC),
            elapsed_s=now_s - self._started_s,
            number=self._number,
            final=final_reason is not None,
            reason=final_reason or "",
            processes=tuple(_with_unit(one) for one in top),
            top=self._options.top,
            process_count=len(ranked),
            grown_count=len(grown),
            other_growth_bytes=sum(one.growth_bytes for one in grown[self._options.top :]),
            started_count=sum(one.is_new for one in ranked),
            ended=self._ended(counts),
            machine=machine,
            machine_growth=machine_growth(machine, self._first_machine),
            losses=() if counts is None else _losses(counts),
            notes=tuple(self._notes_now()),
        )
        self._previous_s = now_s
        return ranking

    def _read_counts(self) -> PageCounts | None:
        if self.pages is None:
            return None
        self.pages.follow_cpus()
        return self.pages.read()

    def _ranked(self, one: SeenProcess, counts: PageCounts | None, now_s: float) -> RankedProcess:
        started_s = one.start_ticks / _TICKS_PER_S
        touched = None if counts is None else counts.running.get(one.pid)
        watched = self._watched.get(one.key)
        if watched is None:
            # A start time is a whole number of ticks.
            is_new = started_s + 1 / _TICKS_PER_S >= self._started_s
            watched = self._watched[one.key] = _Watched(one.memory, now_s, is_new)
        if watched.is_new and not watched.from_its_start and touched and touched.executed:
            watched.first, watched.since_s, watched.from_its_start = _NOTHING, started_s, True
        growth = one.memory.since(watched.first)
        new_pages = new_pages_per_s = None
        if counts is not None:
            new_pages = touched.faults if touched else 0
            # The count begins again if the first thread ends before the others.
            recent = new_pages - watched.last_faults
            new_pages_per_s = _per_s(recent if recent >= 0 else new_pages, now_s - self._previous_s)
            watched.last_faults = new_pages
        since_previous = None
        if self._number:
            before = watched.first if watched.last is None else watched.last.memory
            since_previous = one.memory.own - before.own
        watched.last = one
        return RankedProcess(
            pid=one.pid,
            command=one.command,
            unit="",
            age_s=max(now_s - started_s, 0.0),
            is_new=watched.is_new,
            watched_s=max(now_s - watched.since_s, 0.0),
            memory=one.memory,
            growth=growth,
            since_previous_bytes=since_previous,
            new_pages=new_pages,
            new_pages_per_s=new_pages_per_s,
        )

    def _note_ended(self) -> None:
        """Forget processes that have ended."""
        now = {one.key for one in self._scan.processes.values()}
        for key in self._watched.keys() - now:
            watched = self._watched.pop(key)
            self._ended_count += 1
            self._ended_bytes += (watched.last.memory if watched.last else watched.first).own

    def _remove_stale(self, counts: PageCounts) -> None:
        """The processes were listed after the counters were read: a counter without a process is of
        one that has ended, or that /proc hides."""
        assert self.pages is not None
        for pid, touched in counts.running.items():
            if self._scan.get(pid) is None and not Path(f"/proc/{pid}").exists():
                try:
                    os.kill(pid, 0)
                except ProcessLookupError:
                    self.pages.remove(pid, touched.faults)
                except OSError:
                    continue

    def _ended(self, counts: PageCounts | None) -> EndedProcesses:
        if counts is None:
            return EndedProcesses(self._ended_count, self._ended_bytes)
        most = sorted(counts.ended, key=lambda one: (-one.new_pages, one.command))
        return EndedProcesses(
            counts.ended_count,
            self._ended_bytes,
            counts.ended_faults,
            tuple(most[:_MOST_ENDED_COMMANDS]),
        )

    def _notes_now(self) -> Iterator[str]:
        yield from self._notes
        if self._scan.unreadable_count:
            yield (
                f"{self._scan.unreadable_count:,} processes can't be read: /proc is mounted with "
                "hidepid, and CAP_SYS_PTRACE is missing"
            )

    def close(self) -> None:
        """Detach."""
        if self.pages is not None:
            self.pages.close()


def open_ranker(options: ReportOptions) -> Ranker:
    """A ranker that counts page faults, or one that does without, and says why."""
    notes: list[str] = []
    pages: NewPages | None = None
    try:
        pages = open_new_pages()
    except LeaktraceError as error:
        hint = f" ({error.hint})" if error.hint else ""
        notes.append(
            f"new pages are not counted: {error.message}{hint}. Processes are ranked by /proc "
            "alone: those that end between two reports are not seen, and the growth of new ones "
            "counts from the first report that sees them"
        )
    return Ranker(options, pages, notes)


def _with_unit(one: RankedProcess) -> RankedProcess:
    """Only read for the processes that are shown."""
    return replace(one, unit=unit_of(one.pid))


def _losses(counts: PageCounts) -> tuple[Loss, ...]:
    return (
        Loss(
            "new_pages",
            counts.lost_faults,
            "new pages not counted: the map of processes is full",
            "growth is not affected, which comes from /proc",
        ),
        Loss(
            "ended_commands",
            counts.lost_commands,
            "ended processes not listed by name: the map of names is full",
            "the sum of all ended processes includes them",
        ),
    )


def _hidden_processes() -> Iterator[str]:
    """A note where /proc leaves out processes of other users (hidepid=2, proc(5))."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return
    mounted = [line for line in lines if line.split()[4:5] == ["/proc"]]
    hides = "hidepid=2" in mounted[-1] or "hidepid=invisible" in mounted[-1] if mounted else False
    if hides and is_granted(Capability.SYS_PTRACE) is False:
        yield (
            "processes of other users are left out: /proc is mounted with hidepid, and "
            "CAP_SYS_PTRACE is missing"
        )


def _per_s(amount: int, elapsed_s: float) -> float:
    return amount / elapsed_s if elapsed_s > 0 else 0.0


def _boot_time_s() -> float:
    """Seconds since the boot, as start times count them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
