"""What the kernel mode shares with the kernel side: bpf/kernel/types.h as numpy types and enums.

Names are those of the C header: a struct's in upper case, a constant's unchanged.
`tests/unit/abi/test_layouts.py` compiles the header and compares every offset and number.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

CACHE_NAME_BYTES = 32
LARGEST_SLAB_CLASS = 8192
WANTED_CACHES = 4096
WANTED_SIZES = 64
SECTION_SHIFT = 60
STACK_PLACES = 128

KERNEL_ALLOCATION = np.dtype(
    [("size", "<u8"), ("time_ns", "<u8"), ("stack_id", "<u8"), ("requested", "<u8")]
)

KERNEL_SITE = np.dtype(
    [
        ("allocated_bytes", "<u8"),
        ("allocated_count", "<u8"),
        ("freed_bytes", "<u8"),
        ("freed_count", "<u8"),
        ("generation", "<u4"),
        ("end", "u1"),
        ("is_region", "u1"),
        ("owner", "<u2"),
        ("allocated_requested", "<u8"),
        ("freed_requested", "<u8"),
        ("unseen_frees", "<u8"),
        ("section", "<u2"),
        ("context", "<u2"),
        ("object_size", "<u4"),
        ("cache", f"S{CACHE_NAME_BYTES}"),
    ]
)

KERNEL_STACK = np.dtype(
    [
        ("frame_count", "<u2"),
        ("skipped", "<u2"),
        ("end", "<u2"),
        ("context", "<u2"),
        ("pc", "<u8", (STACK_PLACES,)),
    ]
)

SETTINGS = np.dtype([("own_tgid", "<u4"), ("task_tgid", "<u4")])


class Section(IntEnum):
    """enum section: which allocator a block comes from."""

    SLAB = 0
    PAGES = 1
    PERCPU = 2
    VMALLOC = 3


class Context(IntEnum):
    """enum context: what code runs in."""

    PROCESS = 0
    SOFTIRQ = 1
    IRQ = 2


SECTION_NAMES = {
    Section.SLAB: "slab",
    Section.PAGES: "pages",
    Section.PERCPU: "percpu",
    Section.VMALLOC: "vmalloc",
}
CONTEXT_NAMES = {
    Context.PROCESS: "process",
    Context.SOFTIRQ: "softirq",
    Context.IRQ: "irq",
}


class KernelFunction(IntEnum):
    """enum kernel_function: what an event comes from."""

    KMALLOC = 1
    KMEM_CACHE_ALLOC = 2
    KFREE = 3
    KMEM_CACHE_FREE = 4
    PAGE_ALLOC = 5
    PAGE_FREE = 6
    PERCPU_ALLOC = 7
    PERCPU_FREE = 8
    VMALLOC = 9
    VFREE = 10
    KFREE_RCU = 11
    FREE_BULK = 12


class KernelLossKind(IntEnum):
    """enum loss of the kernel mode: what can be lost, each with a counter."""

    ALLOCATIONS = 0
    ALLOCATION_BYTES = 1
    STACKS = 2
    SITES = 3
    UNSEEN_FREES = 4
    FAILED_STACKS = 5
    TRUNCATED_STACKS = 6
    NESTED = 7
    EVENTS = 8
    MISSED_RETURNS = 9
    RELEASES = 10
    BULK_FREES = 11
    MADE_UP_FOR = 12


KERNEL_LOSS_KINDS = len(KernelLossKind)
