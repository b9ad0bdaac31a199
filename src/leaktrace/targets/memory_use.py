"""How much memory of each kind a process holds, and how that has changed since the attach.

Source: /proc/PID/status (proc_pid_status(5)): RssAnon, RssFile and RssShmem, whose sum is VmRSS;
VmSwap, HugetlbPages and Threads. Reading it costs the process nothing. /proc/PID/smaps_rollup has
more, but for it the kernel walks the page tables of the process and holds mmap_lock meanwhile
(targets/rollup.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from leaktrace.errors import TargetError
from leaktrace.memory import MemoryGrowth, MemoryKinds
from leaktrace.targets.mappings import Mapping, read_mappings
from leaktrace.targets.rollup import Rollups

_FIELD = re.compile(
    r"^(RssAnon|RssFile|RssShmem|VmSwap|HugetlbPages|Threads):\s*(\d+)(?: kB)?$", re.M
)


@dataclass(frozen=True)
class Memory:
    """What a process holds at one moment, in bytes."""

    resident: MemoryKinds
    not_resident: int = 0  # swapped out, or in huge pages of hugetlbfs, which VmRSS leaves out
    threads: int = 1


_NOTHING = Memory(MemoryKinds())


def read_memory(pid: int) -> Memory | None:
    """What a process holds now; None when it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return None
    return parse_memory(text)


def parse_memory(status: str) -> Memory | None:
    """The memory in the text of /proc/PID/status; None for a zombie, which has none."""
    numbers = {name: int(number) for name, number in _FIELD.findall(status)}
    threads = numbers.pop("Threads", 1)
    found = {name: kib * 1024 for name, kib in numbers.items()}
    if "RssAnon" not in found:
        return None
    return Memory(
        MemoryKinds(found["RssAnon"], found.get("RssFile", 0), found.get("RssShmem", 0)),
        found.get("VmSwap", 0) + found.get("HugetlbPages", 0),
        threads,
    )


class MemoryWatch:
    """The memory of one process, compared with that at the attach."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._first = _NOTHING
        self._is_all = True
        self._at_exit: MemoryGrowth | None = None
        self._programs_at_exit = MemoryKinds()
        self._rollups = Rollups(pid)

    def begin(self) -> None:
        """Tracing begins in a running process."""
        first = read_memory(self._pid)
        self._first, self._is_all = first or _NOTHING, False

    def begin_program(self) -> None:
        """The process has executed another program, which holds nothing yet."""
        self._first, self._is_all = _NOTHING, True

    def keep(self) -> None:
        """The process is stopped before it exits: this is what `look` returns when it has ended."""
        now = self.look()
        if now is not None:
            self._at_exit = replace(now, is_at_exit=True)
            self._programs_at_exit = self.of_programs()

    def look(self) -> MemoryGrowth | None:
        """What the process holds now, and the difference; None when it has ended."""
        now = read_memory(self._pid)
        if now is None:
            return self._at_exit
        growth = now.resident.since(self._first.resident)
        return MemoryGrowth(
            now.resident,
            growth,
            now.not_resident - self._first.not_resident,
            self._is_all,
            new_threads=now.threads - self._first.threads,
            huge_pages=self._rollups.look(now.resident.total, growth.anonymous),
        )

    def of_programs(self) -> MemoryKinds:
        """The most that its program and libraries can take, untouched parts included: code and
        constants as file memory, initialised data as anonymous memory."""
        try:
            return _of_programs(read_mappings(self._pid))
        except TargetError:
            return self._programs_at_exit


def _of_programs(mappings: Sequence[Mapping]) -> MemoryKinds:
    programs = {_file(one) for one in mappings if one.is_file and one.is_executable}
    code_bytes = data_bytes = 0
    followers: Sequence[Mapping | None] = (*mappings[1:], None)
    for one, following in zip(mappings, followers, strict=False):
        if _file(one) not in programs:
            continue
        size = one.end - one.start
        # The loader writes to relocated data and makes it read-only afterwards (RELRO). It is
        # mapped directly before the other data.
        is_relocated = (
            following is not None
            and "w" in following.permissions
            and not one.is_executable
            and (following.start, _file(following)) == (one.end, _file(one))
        )
        if "w" in one.permissions or is_relocated:
            data_bytes += size
        code_bytes += size
    return MemoryKinds(anonymous=data_bytes, file=code_bytes)


def _file(mapping: Mapping) -> tuple[str, int]:
    return mapping.device, mapping.inode
