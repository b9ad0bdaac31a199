"""One look at the memory of a process: its mappings with their figures, each with its kind."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from leaktrace.memory_map import Look, MapKind, MemoryRange
from leaktrace.targets.glibc_heaps import ReadMemory, find_heaps
from leaktrace.targets.glibc_heaps import is_candidate as may_be_heap
from leaktrace.targets.map_kinds import kind_of
from leaktrace.targets.memory_files import memory_devices
from leaktrace.targets.present_memory import PresentMemory
from leaktrace.targets.smaps import Entry, read_smaps
from leaktrace.targets.thread_stacks import Threads, find_stacks, read_threads


def look_at(pid: int) -> Look:
    """Raises TargetAccessError when the kernel refuses, EnvironmentUnfitError when a resource is
    missing, MappingsGoneError when the process has ended."""
    threads = read_threads(pid)
    entries = read_smaps(pid)
    now_s = time.monotonic()
    with PresentMemory(pid) as memory:
        ranges, located = by_kind(pid, entries, threads, memory.read)
        cant_read = memory.was_refused
    could_be_heaps = any(may_be_heap(one.mapping) for one in entries)
    return Look(
        time_s=now_s,
        ranges=tuple(ranges),
        thread_count=len(threads.stack_pointers),
        program=program_identity(pid),
        notes=tuple(_notes(threads, ranges, located, cant_read and could_be_heaps)),
    )


def by_kind(
    pid: int, entries: Sequence[Entry], threads: Threads, read: ReadMemory
) -> tuple[list[MemoryRange], int]:
    """The mappings with their kinds; and how many threads have a stack among them."""
    mappings = [entry.mapping for entry in entries]
    heaps = find_heaps(mappings, read)
    stacks = find_stacks(mappings, threads, read)
    devices = memory_devices(pid)
    ranges = []
    for entry in entries:
        one = entry.mapping
        kind = kind_of(
            one,
            entry.flags,
            devices,
            is_arena=one.start in heaps,
            is_stack=one.start in stacks.starts,
        )
        file = (one.device, one.inode) if one.is_file else None
        ranges.append(
            MemoryRange(
                one.start,
                one.end,
                one.permissions,
                one.path,
                kind,
                entry.figures,
                file,
                one.deleted,
            )
        )
    return ranges, stacks.located


def _notes(
    threads: Threads, ranges: list[MemoryRange], located: int, hides_heaps: bool
) -> Iterator[str]:
    if hides_heaps:
        yield (
            "the memory of the process can't be read, so arenas of glibc are counted as anonymous "
            "memory (as root they are told apart)"
        )
    count = len(threads.stack_pointers)
    if threads.was_refused and count > 1:
        yield (
            f"where the stacks of its {count:,} threads are can't be read, so they are counted as "
            "anonymous memory (as root they are told apart)"
        )
        return
    # A running thread has no known stack pointer, but its stack may have been found without.
    found = sum(one.kind in (MapKind.THREAD_STACK, MapKind.MAIN_STACK) for one in ranges)
    missing = count - max(found, located)
    if missing > 0:
        yield (
            f"the stacks of {missing:,} of {count:,} threads are not told apart: they are parts of "
            "other memory (as in Go), or the threads were running"
        )


def program_identity(pid: int) -> tuple[int, ...]:
    """Numbers that differ after an exec: the file of the program, and where its code and its stack
    begin (fields 26 and 28 of /proc/PID/stat). () if the process has ended."""
    with suppress(OSError, ValueError, IndexError):
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        fields = text.rpartition(")")[2].split()
        places = (int(fields[23]), int(fields[25]))
        with suppress(OSError):
            file = Path(f"/proc/{pid}/exe").stat()
            return (file.st_dev, file.st_ino, *places)
        return places
    return ()
