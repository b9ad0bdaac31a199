"""BPF iterators: a program that the kernel runs once for each of its objects, here for each thread
of each process. What the program writes is read from a file (Linux 5.8).

Sources: Documentation/bpf/bpf_iterators.rst, include/uapi/linux/bpf.h, kernel/bpf/bpf_iter.c and
task_iter.c.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct

from leaktrace.bpf.probe_calls import BPF_LINK_CREATE, bpf
from leaktrace.errors import system_error

TRACE_ITER = 28  # enum bpf_attach_type
TASK_ITERATOR = "bpf_iter_task"  # the function that programs for threads are attached to

_BPF_ITER_CREATE = 33  # enum bpf_cmd
_INFO_BYTES = 16  # union bpf_iter_link_info
_PID_OFFSET = 4  # of task.pid in it
_CHUNK_BYTES = 1 << 16  # the kernel returns half as much at a time, at most


def link_iterator(program: int, pid: int = 0) -> int:
    """Make an iterator of a program. Returns the link's file descriptor.

    `pid`: the process whose threads it visits (Linux 6.1), by its id in our pid namespace; 0: those
    of all processes of our pid namespace. The visit of one process ends early when a thread ends
    that was just visited; that of all processes doesn't. Raises OSError with the kernel's errno:
    E2BIG where a process can't be chosen.
    """
    info = ctypes.create_string_buffer(_INFO_BYTES)
    attributes = ctypes.create_string_buffer(64)
    struct.pack_into("<III", attributes, 0, program, 0, TRACE_ITER)
    if pid:
        struct.pack_into("<I", info, _PID_OFFSET, pid)
        struct.pack_into("<QI", attributes, 16, ctypes.addressof(info), len(info))
    return _checked(bpf(BPF_LINK_CREATE, attributes))


def run_iterator(link: int) -> bytes:
    """Run the program for each object. Returns what it wrote; raises OSError."""
    attributes = ctypes.create_string_buffer(64)
    struct.pack_into("<I", attributes, 0, link)
    descriptor = _checked(bpf(_BPF_ITER_CREATE, attributes))
    chunks: list[bytes] = []
    try:
        while True:
            # EAGAIN: a million objects, and the program has written nothing yet.
            with contextlib.suppress(BlockingIOError):
                chunk = os.read(descriptor, _CHUNK_BYTES)
                if not chunk:
                    return b"".join(chunks)
                chunks.append(chunk)
    finally:
        os.close(descriptor)


def _checked(result: int) -> int:
    if result < 0:
        raise system_error(-result)
    return result
