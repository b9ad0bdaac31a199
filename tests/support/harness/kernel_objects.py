"""Which BPF programs, maps and links a process holds, and whether they still exist.

The kernel is asked directly, by bpf(2), so that other processes' objects are not mistaken for ours.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

from harness.lines import DEADLINE_S

_SYSCALL = {"x86_64": 321, "aarch64": 280}
_GET_NEXT_ID = {"prog_id": 11, "map_id": 12, "link_id": 31}  # enum bpf_cmd


@dataclass(frozen=True)
class KernelObject:
    kind: str  # as /proc/PID/fdinfo names it: prog_id, map_id, link_id
    id: int


def held_by(pid: int) -> set[KernelObject]:
    """The BPF objects that a process has file descriptors of."""
    found = set()
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            text = entry.read_text()
        except FileNotFoundError:
            continue  # closed since it was listed
        for line in text.splitlines():
            kind, _, number = line.partition(":")
            if kind in _GET_NEXT_ID:
                found.add(KernelObject(kind, int(number)))
    return found


def still_there(objects: set[KernelObject]) -> set[KernelObject]:
    """Those that the kernel still has."""
    return {thing for thing in objects if _exists(thing)}


def _exists(thing: KernelObject) -> bool:
    """Without a descriptor of it: the last close of a prog array's starts work that holds it, and
    if that work is already running, on a busy machine, the array stays permanently
    (prog_array_map_clear, kernel/bpf/arraymap.c).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    attributes = (ctypes.c_uint32 * 32)(thing.id - 1)  # start_id, next_id
    result = libc.syscall(
        _SYSCALL[platform.machine()],
        _GET_NEXT_ID[thing.kind],
        ctypes.byref(attributes),
        ctypes.sizeof(attributes),
    )
    if result == 0:
        return bool(attributes[1] == thing.id)
    error = ctypes.get_errno()
    if error == errno.ENOENT:  # none has this number or a higher one
        return False
    raise OSError(error, os.strerror(error))


def await_gone(objects: set[KernelObject]) -> None:
    """Wait until the kernel has freed them all, which it does some time after the last close."""
    deadline = time.monotonic() + DEADLINE_S
    while left := still_there(objects):
        assert time.monotonic() < deadline, f"still in the kernel: {left}"
        time.sleep(0.05)
