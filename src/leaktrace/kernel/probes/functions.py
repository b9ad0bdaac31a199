"""The kernel's allocation functions: their names, and the place of their arguments.

kmalloc, kzalloc and similar functions are inline and can't be probed; the functions that they call
have often been renamed. So all their names are listed, /proc/kallsyms shows which of them this
kernel has, and of each group of names (one function in its history) at least one should exist. Only
the size is read of the arguments, and the cache of kmem_cache_*. Sources: include/linux/slab.h,
mm/{slab_common,slub,slab,percpu,vmalloc}.c of Linux 5.10 to 6.18.
"""

from __future__ import annotations

from dataclasses import dataclass

from leaktrace.abi.kernel import Section


@dataclass(frozen=True)
class KernelFunctionGroup:
    """One function and the names it has had. `entry` is the BPF program for its entry; an
    allocation function is also probed at its return. `needs_cache` programs read struct kmem_cache,
    whose layout is only known from type information. An `optional` function may be missing."""

    purpose: str
    entry: str
    names: tuple[str, ...]
    section: Section = Section.SLAB
    is_release: bool = False
    needs_cache: bool = False
    optional: bool = False


def _with_noprof(*names: str) -> tuple[str, ...]:
    """The names with the suffix that most have since Linux 6.10 (memory allocation profiling)."""
    return tuple(f"{name}{suffix}" for name in names for suffix in ("_noprof", ""))


FUNCTIONS = (
    KernelFunctionGroup("kfree", "free_first", ("kfree",), is_release=True),
    KernelFunctionGroup("kmem_cache_free", "free_second", ("kmem_cache_free",), is_release=True),
    KernelFunctionGroup("kmalloc", "enter_kmalloc", _with_noprof("__kmalloc")),
    KernelFunctionGroup("kmalloc_node", "enter_kmalloc", _with_noprof("__kmalloc_node")),
    KernelFunctionGroup(
        "kmalloc_track_caller",
        "enter_kmalloc",
        _with_noprof("__kmalloc_node_track_caller", "__kmalloc_track_caller"),
    ),
    # Constant sizes: (cache, flags, size), and with a node (cache, flags, node, size).
    KernelFunctionGroup(
        "kmalloc of constant size",
        "enter_kmalloc_third",
        (*_with_noprof("__kmalloc_cache", "kmalloc_trace"), "kmem_cache_alloc_trace"),
    ),
    KernelFunctionGroup(
        "kmalloc_node of constant size",
        "enter_kmalloc_fourth",
        (
            *_with_noprof("__kmalloc_cache_node", "kmalloc_node_trace"),
            "kmem_cache_alloc_node_trace",
        ),
        optional=True,
    ),
    KernelFunctionGroup(
        "large kmalloc",
        "enter_kmalloc",
        (
            *_with_noprof("__kmalloc_large", "kmalloc_large"),
            "kmalloc_order_trace",
            "kmalloc_order",
        ),
    ),
    KernelFunctionGroup(
        "large kmalloc_node",
        "enter_kmalloc",
        _with_noprof("__kmalloc_large_node", "kmalloc_large_node"),
        optional=True,
    ),
    # Memory that kvmalloc took from vmalloc.
    KernelFunctionGroup("kvfree", "free_first", ("vfree",), is_release=True, optional=True),
    KernelFunctionGroup(
        # It contains the body of kmalloc; if that fails, the memory is vmalloc's.
        "kvmalloc",
        "enter_kmalloc",
        ("__kvmalloc_node_noprof", "kvmalloc_node_noprof", "kvmalloc_node"),
        optional=True,
    ),
    KernelFunctionGroup(
        "kmem_cache_alloc",
        "enter_cache",
        _with_noprof("kmem_cache_alloc"),
        needs_cache=True,
    ),
    KernelFunctionGroup(
        "kmem_cache_alloc_node",
        "enter_cache",
        _with_noprof("kmem_cache_alloc_node"),
        needs_cache=True,
        optional=True,
    ),
    KernelFunctionGroup(
        "kmem_cache_alloc_lru",
        "enter_cache",
        _with_noprof("kmem_cache_alloc_lru"),
        needs_cache=True,
        optional=True,
    ),
    KernelFunctionGroup(
        "kmem_cache_alloc_from_sheaf",
        "enter_cache",
        ("kmem_cache_alloc_from_sheaf_noprof",),
        needs_cache=True,
        optional=True,
    ),
    KernelFunctionGroup(
        "free_percpu",
        "free_percpu_first",
        ("free_percpu",),
        Section.PERCPU,
        is_release=True,
    ),
    KernelFunctionGroup(
        "alloc_percpu",
        "enter_percpu",
        _with_noprof("pcpu_alloc"),
        Section.PERCPU,
    ),
    KernelFunctionGroup(
        "vfree", "free_vmalloc", ("vfree", "vfree_atomic"), Section.VMALLOC, is_release=True
    ),
    KernelFunctionGroup(
        "vmalloc", "enter_vmalloc", _with_noprof("__vmalloc_node_range"), Section.VMALLOC
    ),
)

# Releases that call neither kfree nor kmem_cache_free. Without probes on them, blocks that they
# released would look outstanding.
BY_RCU = KernelFunctionGroup(
    "kfree_rcu", "free_by_rcu", ("kvfree_call_rcu",), is_release=True, optional=True
)
IN_BULK = KernelFunctionGroup(
    "kmem_cache_free_bulk",
    "free_in_bulk",
    ("kmem_cache_free_bulk",),
    is_release=True,
    optional=True,
)
UNSEEN_RELEASES = (BY_RCU, IN_BULK)
