"""The walk of a heap, compared with what the program's own malloc says.

The equalities that hold to the byte, with mallinfo2(3) called in the program when it rests:
    sum of the arenas' system bytes           == arena
    free bytes but those in caches of threads == fordblks
    the rest of the arenas' bytes             == uordblks
    blocks with a mapping of their own        == hblks, and their mappings == hblkhd
    top chunk of the main arena               == keepcost
and each live block of the program is found, with the size that malloc_usable_size(3) gives.
musl has no mallinfo2(): there, the blocks of the program are all that is in use.
"""

from __future__ import annotations

import os
import platform
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from harness.compiling import Compiler
from harness.target import Target
from stopped_image import image_of

from leaktrace.heap.walk import walk_heap
from leaktrace.heap.walked import FreeKind, WalkedHeap
from leaktrace.targets.memory_image import MemoryImage
from leaktrace.targets.pause import Pause

TLS_BLOCKS = 1  # of each thread, allocated by the dynamic linker
STATIC_BLOCKS = 6  # that a static program allocates when it starts
TUNABLES = "GLIBC_TUNABLES"


@dataclass(frozen=True)
class Account:
    """mallinfo2(3)"""

    arena: int
    hblks: int
    hblkhd: int
    uordblks: int
    fordblks: int
    keepcost: int


@dataclass(frozen=True, eq=False)
class Case:
    heap: WalkedHeap
    account: Account
    blocks: np.ndarray  # n x 2: address and usable size of the program's live blocks


def walked(
    program: Path, directory: Path, words: str, env: Mapping[str, str] | None = None
) -> Case:
    threads, operations, *how = words.split()
    file = directory / "blocks"
    with Target([program, threads, operations, file, *how], env=env) as target:
        target.await_ready()
        *numbers, pid = target.do()
        try:
            image, mappings = image_of(pid)
        finally:
            if pid != target.pid:  # its child
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    heap = walk_heap(image, mappings)
    assert heap is not None
    blocks = np.fromfile(file, dtype=np.uint64).reshape(-1, 2)
    return Case(heap, Account(*numbers), blocks[np.argsort(blocks[:, 0])])


def of_kind(heap: WalkedHeap, *kinds: FreeKind) -> int:
    return int(heap.free_sizes[np.isin(heap.free_kinds, kinds)].sum())


def lengths(ranges: np.ndarray) -> int:
    return int((ranges[:, 1] - ranges[:, 0]).sum())


def lengths_of_arenas(heap: WalkedHeap) -> int:
    return sum(end - start for one in heap.arenas for start, end in one.mapped)


def check(case: Case, extra: int) -> None:
    """`extra`: blocks that libraries may hold beside the program's and the caches of threads."""
    heap, account = case.heap, case.account
    assert heap.problems == ()
    system = sum(one.system_bytes for one in heap.arenas)
    free = of_kind(heap, FreeKind.BIN, FreeKind.FAST, FreeKind.TOP)
    is_mapped = heap.arenas_of == -1
    mapped = lengths(heap.segments) - lengths_of_arenas(heap)
    found = Account(
        arena=system,
        hblks=int(is_mapped.sum()),
        hblkhd=mapped,
        uordblks=system - free,
        fordblks=free,
        keepcost=heap.arenas[0].top_bytes,
    )
    assert found == account
    check_blocks(case, extra)
    check_sums(heap)


def check_blocks(case: Case, extra: int) -> None:
    """Every block of the program is found, and nearly nothing else: what it freed is not in use."""
    heap = case.heap
    rows = np.searchsorted(heap.addresses, case.blocks[:, 0])
    assert (heap.addresses[rows] == case.blocks[:, 0]).all()
    assert (heap.sizes[rows] == case.blocks[:, 1]).all()
    others = np.setdiff1d(np.arange(len(heap.addresses)), np.concatenate([rows, heap.own_rows]))
    assert len(others) <= extra


def check_sums(heap: WalkedHeap) -> None:
    total = int(heap.sizes.sum()) + int(heap.free_sizes.sum()) + heap.overhead_bytes
    assert lengths(heap.segments) == total
    assert (np.diff(heap.addresses.astype(np.int64)) > 0).all()
    assert (np.diff(heap.free_addresses.astype(np.int64)) > 0).all()
    assert (heap.segments[1:, 0] >= heap.segments[:-1, 1]).all()
    for one in heap.arenas:
        held = one.in_use_bytes + one.free_bytes + one.overhead_bytes + one.foreign_bytes
        assert held == one.system_bytes
        own = heap.arenas_of == one.number
        assert (one.in_use_count, one.in_use_bytes) == (own.sum(), heap.sizes[own].sum())
        assert 0 <= one.trimmable_bytes <= one.free_bytes
        assert one.between_bytes == one.free_bytes - one.top_bytes
        assert one.largest_free_bytes <= one.between_bytes
    assert sum(one.cached_bytes for one in heap.arenas) == of_kind(heap, FreeKind.CACHED)
    assert sum(one.fast_bytes for one in heap.arenas) == of_kind(heap, FreeKind.FAST)


@pytest.mark.parametrize(
    ("words", "env", "caches"),
    [
        pytest.param("0 20000", {}, 1, id="one arena"),
        pytest.param("8 40000", {}, 7, id="nine arenas, two threads ended"),
        pytest.param("3 20000 fork", {}, 4, id="a child"),
        pytest.param("2 20000 nobrk", {}, 3, id="the program break can't be moved"),
        pytest.param("2 20000 foreign", {}, 3, id="the program moves its break"),
        pytest.param("2 20000", {"MALLOC_MMAP_THRESHOLD_": "60000"}, 3, id="many mapped blocks"),
        pytest.param("2 20000", {TUNABLES: "glibc.malloc.tcache_count=0"}, 0, id="no caches"),
        pytest.param("2 60000", {TUNABLES: "glibc.malloc.tcache_count=127"}, 3, id="large caches"),
        pytest.param(
            "4 20000",
            {TUNABLES: "glibc.malloc.arena_max=2:glibc.malloc.tcache_max=500"},
            4,
            id="threads share an arena",
        ),
        pytest.param("2 20000", {TUNABLES: "glibc.malloc.hugetlb=2"}, 3, id="heaps of huge pages"),
    ],
)
def test_it_agrees_with_malloc(
    compiled: Compiler, tmp_path: Path, words: str, env: dict[str, str], caches: int
) -> None:
    case = walked(compiled("walked.c"), tmp_path, words, env)
    threads = int(words[0])
    unused_caches = threads + 1 if caches == 0 else 0
    check(case, extra=threads * TLS_BLOCKS + unused_caches)
    heap = case.heap
    assert heap.allocator == "glibc malloc"
    assert len(heap.own_rows) == caches
    assert (of_kind(heap, FreeKind.CACHED) > 0) == (caches > 0)
    arenas = 2 if "arena_max" in env.get(TUNABLES, "") else threads + 1
    assert len(heap.arenas) == arenas
    assert [one.is_main for one in heap.arenas] == [True] + [False] * (arenas - 1)
    assert (heap.arenas[0].foreign_bytes >= 1000) == ("foreign" in words)
    # malloc doesn't use the program break for huge pages.
    is_scattered = "nobrk" in words or "foreign" in words or "huge" in str(env)
    assert (len(heap.arenas[0].mapped) > 1) == is_scattered


@pytest.mark.skipif(platform.machine() != "x86_64", reason="registers are known on x86-64 only")
def test_caches_without_a_block(compiled: Compiler, tmp_path: Path, require_root: None) -> None:
    env = {TUNABLES: "glibc.malloc.tcache_count=0"}
    with Target([compiled("walked.c"), "3", "20000", tmp_path / "blocks"], env=env) as target:
        target.await_ready()
        target.do()
        image, mappings = image_of(target.pid)
        with Pause(target.pid, 10_000) as pause:
            pointers = [one.thread_pointer for one in pause.threads]
    without, heap = walk_heap(image, mappings), walk_heap(image, mappings, pointers)
    assert heap is not None
    assert without is not None
    assert len(without.own_rows) == 0
    assert len(heap.own_rows) == len(pointers) == 4
    blocks = np.fromfile(tmp_path / "blocks", dtype=np.uint64).reshape(-1, 2)
    assert not np.isin(heap.addresses[heap.own_rows], blocks[:, 0]).any()
    # One for each arena, as these threads don't share any.
    assert sorted(heap.arenas_of[heap.own_rows].tolist()) == [0, 1, 2, 3]
    check_sums(heap)


def present_bytes(image: MemoryImage, heap: WalkedHeap) -> int:
    """How much of the arenas is in memory."""
    return sum(
        segment.end - segment.start
        for one in heap.arenas
        for start, end in one.mapped
        for segment in image.within(start, end)
    )


def test_what_malloc_trim_gives_back_is_told_before(compiled: Compiler, tmp_path: Path) -> None:
    # Without fastbins: malloc_trim() would first merge what is in them.
    env = {TUNABLES: "glibc.malloc.mxfast=0"}
    with Target([compiled("walked.c"), "3", "30000", tmp_path / "blocks"], env=env) as target:
        target.await_ready()
        target.do()
        image, mappings = image_of(target.pid)
        target.do()
        after, _ = image_of(target.pid)
    heap = walk_heap(image, mappings)
    assert heap is not None
    given_back = present_bytes(image, heap) - present_bytes(after, heap)
    assert sum(one.trimmable_bytes for one in heap.arenas) == given_back > 1_000_000


def test_of_a_static_program(compiled: Compiler, tmp_path: Path) -> None:
    case = walked(compiled("walked.c", "-static", "-s"), tmp_path, "2 20000")
    check(case, extra=2 * TLS_BLOCKS + STATIC_BLOCKS)


@pytest.mark.parametrize("linking", ["", "-static"])
@pytest.mark.parametrize("words", ["0 20000", "6 30000", "2 20000 fork", "2 20000 nobrk"])
def test_of_musl(
    compiled: Compiler,
    require_tool: Callable[[str], str],
    tmp_path: Path,
    words: str,
    linking: str,
) -> None:
    require_tool("musl-gcc")
    program = compiled("walked.c", *filter(None, [linking]), compiler="musl-gcc")
    case = walked(program, tmp_path, words)
    heap = case.heap
    assert heap.allocator == "musl mallocng"
    assert heap.problems == ()
    check_blocks(case, extra=0)
    check_sums(heap)
    assert (heap.arenas_of == -1).any()
    assert of_kind(heap, FreeKind.BIN) == sum(one.free_bytes for one in heap.arenas) > 0
    # All of its memory is private and anonymous, but what libraries had left over.
    assert lengths_of_arenas(heap) == heap.arenas[0].system_bytes


def test_without_an_allocator_that_is_known() -> None:
    assert walk_heap(MemoryImage([]), ()) is None
