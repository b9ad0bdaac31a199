"""Which memory of a process may hold pointers to its blocks: every page that is its own, and not as
its file has it.

That is anonymous memory, and pages of private mappings of files that were written to: data, bss,
and the part of it that the dynamic loader made read-only (RELRO). Of shared mappings, those that no
other file backs: memory of memfds, of SysV, of /dev/shm. What was swapped out is read, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from leaktrace.targets.mappings import Mapping
from leaktrace.targets.page_map import (
    FILE,
    PRESENT,
    READ_STEP_BYTES,
    SCAN_STEP_BYTES,
    SWAPPED,
    ZERO,
    PageMap,
    Range,
    merge,
    runs,
    steps,
)

# What the kernel names in brackets is its own, but for these.
_OF_PROCESS = ("[heap]", "[stack]", "[anon:", "[anon_shmem:")
_SHARED_MEMORY = (
    "/dev/zero",
    "/memfd:",
    "/SYSV",
    "/dev/shm/",
    "/anon_hugepage",
    "/dev/hugepages/",
)


def root_pages(pid: int, mappings: Sequence[Mapping], *, scans: bool = True) -> NDArray[np.uint64]:
    """Ranges [start, end) of such pages, n x 2, ascending and disjoint.

    `scans`: use PAGEMAP_SCAN where the kernel has it. Raises OSError when the process has ended, or
    its page map can't be read.
    """
    # Neighbours are looked at as one: a process may have 100,000 mappings.
    private, shared = (
        merge(((one.start, one.end) for one in mappings if is_wanted(one)), 0)
        for is_wanted in (_is_private, is_shared_memory)
    )
    found: list[NDArray[np.uint64]] = []
    with closing(PageMap(pid)) as pages:
        for ranges, without in ((private, FILE | ZERO), (shared, ZERO)):
            scanned = _scan(pages, ranges, without) if scans else None
            found += _read(pages, ranges, without) if scanned is None else scanned
        if not pages.has_memory():
            raise ProcessLookupError
    if not found:
        return np.empty((0, 2), dtype=np.uint64)
    both = np.concatenate(found)
    return both[np.argsort(both[:, 0], kind="stable")]


def _is_private(mapping: Mapping) -> bool:
    # Also what the process can't read at the moment: it may keep pointers there.
    if not mapping.permissions.endswith("p"):
        return False
    return not mapping.path.startswith("[") or mapping.path.startswith(_OF_PROCESS)


def is_shared_memory(mapping: Mapping) -> bool:
    return mapping.permissions.startswith("rw") and (
        mapping.permissions.endswith("s") and mapping.path.startswith(_SHARED_MEMORY)
    )


def _scan(pages: PageMap, ranges: Sequence[Range], without: int) -> list[NDArray[np.uint64]] | None:
    """By PAGEMAP_SCAN; None where the kernel doesn't have it."""
    found: list[NDArray[np.uint64]] = []
    for start, end in steps(ranges, SCAN_STEP_BYTES):
        at = start
        while at < end:
            scanned = pages.scan(at, end, without)
            if scanned is None:
                return None
            in_memory, walked = scanned
            if walked <= at:
                break
            at = walked
            found.append(np.stack([in_memory["start"], in_memory["end"]], axis=1))
    return found


def _read(pages: PageMap, ranges: Sequence[Range], without: int) -> Iterator[NDArray[np.uint64]]:
    for start, end in steps(ranges, READ_STEP_BYTES):
        categories = pages.read(start, end)
        chosen = (categories & (PRESENT | SWAPPED) != 0) & (categories & without == 0)
        yield np.array(runs(chosen, start), dtype=np.uint64).reshape(-1, 2)
