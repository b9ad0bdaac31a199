"""The memory of a child, copied while it is stopped by a signal."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from leaktrace.targets.mappings import Mapping, read_mappings
from leaktrace.targets.memory_image import MemoryImage, Segment

_PAGE_BYTES = 4096
_HAS_PAGE = np.uint64(3 << 62)  # present or swapped out (proc_pid_pagemap(5))


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """All threads of the process are stopped meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        tasks = Path(f"/proc/{pid}/task")
        while any(_state(task) not in "TXZ" for task in tasks.iterdir()):
            time.sleep(0.001)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _state(task: Path) -> str:
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


def image_of(pid: int) -> tuple[MemoryImage, tuple[Mapping, ...]]:
    """Every page that a stopped process has in private writable memory."""
    with stopped(pid):
        mappings = read_mappings(pid)
        return MemoryImage(list(_segments(pid, mappings))), mappings


def _segments(pid: int, mappings: Sequence[Mapping]) -> Iterator[Segment]:
    with (
        Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory,
        Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pages,
    ):
        for one in mappings:
            if one.permissions[:2] != "rw" or one.permissions[3] != "p":
                continue
            count = (one.end - one.start) // _PAGE_BYTES
            data = os.pread(pages.fileno(), count * 8, one.start // _PAGE_BYTES * 8)
            has_page = (np.frombuffer(data, dtype=np.uint64) & _HAS_PAGE) != 0
            edges = np.flatnonzero(np.diff(np.concatenate([[0], has_page.view(np.int8), [0]])))
            for first, last in edges.reshape(-1, 2).tolist():
                yield from _read(memory.fileno(), one.start + first * _PAGE_BYTES, last - first)


def _read(memory: int, start: int, pages: int) -> Iterator[Segment]:
    buffer = np.empty(pages * _PAGE_BYTES, dtype=np.uint8)
    try:
        read = os.preadv(memory, [buffer.data], start)
    except OSError:  # a guard page (madvise(2), MADV_GUARD_INSTALL) is among them
        if pages > 1:
            yield from _read(memory, start, pages // 2)
            yield from _read(memory, start + pages // 2 * _PAGE_BYTES, pages - pages // 2)
        return
    words = buffer[: read // 8 * 8].view(np.uint64)
    yield Segment(start, words)
    if 0 < read < len(buffer):
        done = read // _PAGE_BYTES
        yield from _read(memory, start + done * _PAGE_BYTES, pages - done)
