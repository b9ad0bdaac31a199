"""Where the threads of a process have their stacks and their thread-local storage (x86-64, glibc).

The storage lies before the thread's control block, where its FS register points: that of the
program next to it, those of the libraries before that (variant II of the ELF TLS ABI; glibc:
_dl_determine_tlsoffset).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from leaktrace.roots.module_data import ModuleData
from leaktrace.targets.dead_stacks import ReadMemory, WaitingThread, stack_start
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.page_map import Range
from leaktrace.targets.thread_registers import Registers

_CONTROL_BLOCK_BYTES = 2304  # struct pthread: with what pthread_setspecific(3) keeps
_MOST_TLS_BYTES = 1 << 20


@dataclass(frozen=True)
class ThreadData:
    """One thread. The ranges are empty where they are not known."""

    tid: int
    name: str | None
    stack: Range
    own_tls: Range  # of the program itself
    other_tls: Range  # of libraries
    control_block: Range


def threads_data(
    pid: int,
    threads: Registers,
    mappings: Sequence[Mapping],
    modules: Sequence[ModuleData],
    program: ModuleData | None,
    *,
    thread_name: Callable[[int], str | None],
    read: ReadMemory,
) -> list[ThreadData]:
    """All threads. `mappings` by ascending address; `program`: one of the modules."""
    own_bytes = _own_tls_bytes(program)
    all_bytes = own_bytes + _others_tls_bytes(program, modules)
    starts = [one.start for one in mappings]
    found = []
    for row, tid in enumerate(threads.tids.tolist()):
        pointer, base = int(threads.stack_pointers[row]), int(threads.thread_pointers[row])
        at_base = _mapping_at(mappings, starts, base)
        own = others = block = (0, 0)
        if at_base is not None and all_bytes < _MOST_TLS_BYTES:
            own = (max(base - own_bytes, at_base.start), base)
            others = (max(base - all_bytes, at_base.start), own[0])
            block = (base, min(base + _CONTROL_BLOCK_BYTES, at_base.end))
        stack = (0, 0)
        at_pointer = _mapping_at(mappings, starts, pointer)
        if at_pointer is not None and _may_be_stack(at_pointer):
            thread = WaitingThread(pointer, base, is_first=tid == pid)
            low = None if at_pointer.path == "[stack]" else stack_start(thread, read)
            if at_pointer.path == "[stack]":
                stack = (at_pointer.start, at_pointer.end)
            elif low is not None:
                stack = (low, others[0] or base)
        found.append(ThreadData(tid, thread_name(tid), stack, own, others, block))
    return found


def _mapping_at(mappings: Sequence[Mapping], starts: Sequence[int], address: int) -> Mapping | None:
    at = bisect_right(starts, address) - 1
    return mappings[at] if at >= 0 and address < mappings[at].end else None


def _may_be_stack(mapping: Mapping) -> bool:
    return not mapping.is_file and mapping.permissions.startswith("rw")


def _own_tls_bytes(program: ModuleData | None) -> int:
    """From the begin of the program's storage to the thread pointer."""
    segment = None if program is None else program.tls
    if segment is None:
        return 0
    alignment = max(segment.alignment, 1)
    first = -(segment.vaddr % alignment) % alignment
    return _round_up(segment.memory_size - first, alignment) + first


def _others_tls_bytes(program: ModuleData | None, modules: Sequence[ModuleData]) -> int:
    segments = [one.tls for one in modules if one is not program and one.tls is not None]
    return sum(_round_up(one.memory_size, max(one.alignment, 1)) for one in segments)


def _round_up(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
