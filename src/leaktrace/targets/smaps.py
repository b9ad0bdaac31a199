"""What each mapping of a process holds, from /proc/PID/smaps (proc_pid_smaps(5)).

Reading it makes the kernel walk the page tables of the process. It holds mmap_lock for reading
meanwhile, for a few mappings at a time (one buffer of read(2)): a call of mmap, munmap or brk, and
on older kernels a page fault, of the process may wait that long. The figures of different mappings
are therefore not of exactly the same moment.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from leaktrace.errors import TargetError
from leaktrace.memory_map import Figures
from leaktrace.targets.mappings import Mapping, parse_mappings, read_map_file

_EXEC_TAKES_S = (0.001, 0.005, 0.02)  # pauses between tries while the process executes a program
# The first line of a mapping, and those of its lines that are used. The kernel writes a newline in
# a name as \012, so no name can look like another line.
_LINE = re.compile(
    rb"^(?:([0-9a-f]+-[0-9a-f]+ .*)|(Size|Rss|Pss|Swap|AnonHugePages|ShmemPmdMapped|FilePmdMapped"
    rb"|Shared_Hugetlb|Private_Hugetlb|LazyFree): +(\d+) kB|VmFlags:(.*))$",
    re.M,
)


@dataclass(frozen=True)
class Entry:
    """One mapping with its figures. `flags` are VmFlags: {"rd", "wr", "ht", …}."""

    mapping: Mapping
    figures: Figures
    flags: frozenset[str]


class MappingsGoneError(TargetError):
    """The process has no mappings any more: it has ended, or its first thread has."""


def read_smaps(pid: int) -> tuple[Entry, ...]:
    """The mappings of a process by ascending address.

    Raises TargetAccessError when the kernel refuses to show them, EnvironmentUnfitError when a
    resource is missing, MappingsGoneError when there are none.
    """
    for wait_s in (*_EXEC_TAKES_S, None):
        text = _text(pid)
        if text:
            return parse_smaps(text)
        if wait_s is not None:
            time.sleep(wait_s)
    raise MappingsGoneError(
        f"process {pid} no longer has memory: it has ended, or its first thread has",
        "check the process id",
    )


def _text(pid: int) -> bytes:
    """b"" if the process has ended or executes a program just now."""
    text = read_map_file(pid, "smaps")
    # Of a process that ends meanwhile, the text just stops. Then it has no mappings any more.
    return text if read_map_file(pid, "maps") else b""


def parse_smaps(text: bytes) -> tuple[Entry, ...]:
    """The mappings in the text of /proc/PID/smaps. What has another form is skipped."""
    return tuple(_entries(text))


def _entries(text: bytes) -> Iterator[Entry]:
    mapping: Mapping | None = None
    kib: dict[bytes, int] = {}
    flags: frozenset[str] = frozenset()
    for match in _LINE.finditer(text):
        head, name, number, flag_words = match.groups()
        if head is not None:
            if mapping is not None:
                yield Entry(mapping, _figures(mapping, kib), flags)
            mapping, kib, flags = next(iter(parse_mappings(head)), None), {}, frozenset()
        elif name is not None:
            kib[name] = int(number)
        else:
            flags = frozenset(flag_words.decode("ascii", "replace").split())
    if mapping is not None:
        yield Entry(mapping, _figures(mapping, kib), flags)


def _figures(mapping: Mapping, kib: dict[bytes, int]) -> Figures:
    def of(*names: bytes) -> int:
        return 1024 * sum(kib.get(name, 0) for name in names)

    return Figures(
        reserved=mapping.end - mapping.start,
        resident=of(b"Rss"),
        proportional=of(b"Pss"),
        swapped=of(b"Swap"),
        huge=of(b"AnonHugePages", b"ShmemPmdMapped", b"FilePmdMapped"),
        hugetlb=of(b"Shared_Hugetlb", b"Private_Hugetlb"),
        lazily_freed=of(b"LazyFree"),
    )
