"""The regions of all traced processes, with how much of each is in memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.regions import REGION, Regions
from leaktrace.memory import Backing
from leaktrace.process.traced import Traced
from leaktrace.targets.page_map import PAGE_BYTES
from leaktrace.targets.resident_pages import ScanBudget

_THREADS = re.compile(r"^Threads:\s*(\d+)$", re.M)
# A stack is mapped before its thread exists.
_SURELY_USED_NS = 1_000_000_000

# Addresses, records and slots of regions, as of `other_memory.regions_of`.
Records = tuple[NDArray[np.uint64], NDArray[np.void], NDArray[np.uint16]]


def regions_in_memory(
    traced: Sequence[Traced], records: Sequence[Records], backing: Backing, time_ns: int
) -> Regions:
    """The regions of all processes, with what was seen of their pages. `records` is parallel to
    `traced`; `time_ns` is that of the snapshot."""
    parts, age_ns, idle = [], 0, []
    for one, (addresses, values, slots) in zip(traced, records, strict=True):
        rows = np.zeros(len(values), dtype=REGION)
        if not len(rows):
            continue
        rows["stack_id"], rows["slot"] = values["stack_id"], slots
        rows["size"], rows["time_ns"] = values["size"], values["time_ns"]
        pages = one.regions.pages
        pages.fill_in(
            rows, addresses.astype(np.int64), 1 if backing is Backing.BREAK else PAGE_BYTES
        )
        if backing is Backing.MAPPED:
            stack_ids, at = np.unique(rows["stack_id"], return_inverse=True)
            is_stack = [one.own.is_thread_stack(stack_id) for stack_id in stack_ids.tolist()]
            rows["is_thread_stack"] = np.array(is_stack, dtype=bool)[at]
            idle.append(_idle(one.pid, rows, time_ns))
        age_ns = max(age_ns, pages.age_ns(time_ns))
        parts.append(rows)
    if not parts:
        return Regions()
    known = [one for one in idle if one is not None]
    return Regions(
        np.concatenate(parts),
        age_ns,
        sum(count for count, _ in known) if known else None,
        sum(size for _, size in known),
    )


def _idle(pid: int, rows: NDArray[np.void], now_ns: int) -> tuple[int, int] | None:
    """How many stacks belong to no thread, at least, and what they reserve; None: not known. Each
    thread has one stack. The main thread has another one, which the kernel has mapped, and so may
    older threads."""
    is_settled = rows["is_thread_stack"] & (rows["time_ns"] + _SURELY_USED_NS <= now_ns)
    sizes = np.sort(rows["size"][is_settled])
    if not len(sizes):
        return 0, 0
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return None
    threads = _THREADS.search(status)
    if threads is None or "VmRSS" not in status:
        return None  # it has ended
    idle = max(len(sizes) - max(int(threads[1]) - 1, 0), 0)
    return idle, int(sizes[:idle].sum())


def look_at_regions(traced: Sequence[Traced]) -> None:
    """Look at the pages of the regions of all processes, as far as one report may."""
    budget = ScanBudget()
    for left, one in zip(range(len(traced), 0, -1), traced, strict=True):
        account, generation = one.regions, one.generation
        given = budget.share(left)
        used = budget.share(left)
        account.look_at_pages(used)
        budget.take(used, given)
        if one.slot.generation() != generation:
            account.pages.forget()  # those are the pages of another program
