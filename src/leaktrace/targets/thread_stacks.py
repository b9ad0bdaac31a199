"""Which mappings are the stacks of threads.

The kernel names only the stack of the first thread ([stack]). A stack pointer alone proves nothing:
the threads of Go run on stacks inside its heap, and coroutines on memory of malloc. So a mapping
counts as a stack if one of these holds:

* It is accessible memory directly above an inaccessible page, as a stack is above its guard, and
  the stack pointer of a thread points into it. /proc/PID/task/TID/syscall (proc_pid_syscall(5)) has
  the stack pointer of a thread that waits, and not of one that runs.
* At its end is the control block of a thread (x86-64, glibc): a structure that contains its own
  address twice, where the thread's FS register points. So the stacks of running threads are found,
  and those of threads that have ended, which glibc keeps for later ones. It is searched for above a
  guard, and where a stack pointer points to: newer versions of glibc have guards without a mapping.

What can't be known: the stack of a running thread of another C library; what of a mapping is stack
if the kernel has joined it with memory that follows it.
"""

from __future__ import annotations

import platform
import struct
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leaktrace.targets.mappings import Mapping as Mapped

_PAGE_BYTES = 4096
_LEAST_STACK_BYTES = 16 << 10  # PTHREAD_STACK_MIN
_WORDS = struct.Struct("=512Q")
_SELF_WORDS = 2  # tcb and self of tcbhead_t are two words apart (sysdeps/x86_64/nptl/tls.h)

ReadMemory = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Threads:
    """The threads of a process: by thread id the stack pointer, None for one that runs or that
    can't be examined."""

    stack_pointers: Mapping[int, int | None]
    was_refused: bool = False  # a privilege is missing


@dataclass(frozen=True)
class Stacks:
    """The start addresses of mappings that are stacks, and how many threads they belong to at
    least (not counting control blocks)."""

    starts: frozenset[int]
    located: int  # threads whose stack pointer is in a stack, [stack] included


def read_threads(pid: int) -> Threads:
    """The threads of this moment; none if the process has ended."""
    pointers: dict[int, int | None] = {}
    was_refused = False
    try:
        threads = [int(one.name) for one in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return Threads({})
    for thread in threads:
        try:
            text = Path(f"/proc/{pid}/task/{thread}/syscall").read_text()
        except PermissionError:
            was_refused, text = True, ""
        except FileNotFoundError:  # ended, or a kernel without CONFIG_HAVE_ARCH_TRACEHOOK
            text = ""
        except OSError:
            text = ""
        pointers[thread] = parse_stack_pointer(text)
    return Threads(pointers, was_refused)


def parse_stack_pointer(text: str) -> int | None:
    """ "NUMBER ARGUMENTS… SP PC", "-1 SP PC", or "running"."""
    words = text.split()
    if len(words) < 3:
        return None
    try:
        return int(words[-2], 16)
    except ValueError:
        return None


def find_stacks(mappings: Sequence[Mapped], threads: Threads, read: ReadMemory) -> Stacks:
    """`mappings` by ascending address."""
    starts = [one.start for one in mappings]
    pointers = [one for one in threads.stack_pointers.values() if one is not None]
    pointed: dict[int, int] = {}  # by index: how many stack pointers
    for pointer in pointers:
        index = bisect_right(starts, pointer) - 1
        if index >= 0 and pointer < mappings[index].end:
            pointed[index] = pointed.get(index, 0) + 1
    found = set()
    located = 0
    for index, one in enumerate(mappings):
        if one.path == "[stack]":
            located += pointed.get(index, 0)
        elif _may_be_stack(one):
            is_guarded = index > 0 and _guards(mappings[index - 1], one)
            is_stack = is_guarded and index in pointed
            if not is_stack and (is_guarded or index in pointed):
                is_stack = _ends_with_control_block(one, read)
            if is_stack:
                found.add(one.start)
                located += pointed.get(index, 0)
    return Stacks(frozenset(found), located)


def _may_be_stack(mapping: Mapped) -> bool:
    return (
        not mapping.is_file
        and mapping.path == ""
        and mapping.permissions.startswith("rw")
        and mapping.permissions.endswith("p")
        and mapping.end - mapping.start >= _LEAST_STACK_BYTES
    )


def _guards(below: Mapped, stack: Mapped) -> bool:
    return below.end == stack.start and not below.is_file and below.permissions == "---p"


def _ends_with_control_block(mapping: Mapped, read: ReadMemory) -> bool:
    if platform.machine() != "x86_64":
        return False
    base = mapping.end - _PAGE_BYTES
    page = read(base, _PAGE_BYTES)
    if len(page) < _PAGE_BYTES:
        return False
    words = _WORDS.unpack(page)
    return any(
        words[index] == base + index * 8 == words[index + _SELF_WORDS]
        for index in range(len(words) - _SELF_WORDS)
    )
