"""The kernel's allocation tracepoints, and the meaning of their arguments.

Arguments have changed (a struct kmem_cache in 5.19, other places for the sizes in 6.1, two events
merged into one), so they are read from the running kernel's type information, never concluded from
its version. Source: include/trace/events/{kmem,percpu,vmalloc}.h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from leaktrace.abi.kernel import Section

Arguments = tuple[str, ...]  # the types, as `KernelTypes` spells them
Knobs = dict[str, int]  # of bpf/kernel/tracepoints.bpf.c: places of arguments


@dataclass(frozen=True)
class Tracepoint:
    """A tracepoint, the names of its BPF programs, and how its arguments are read.

    `read` returns None for arguments that it doesn't understand. A tracepoint that is not
    `required` has been merged with another one in newer kernels.
    """

    name: str
    source: str
    section: Section
    is_release: bool
    read: Callable[[Arguments], Knobs | None]
    required: bool = True

    @property
    def programs(self) -> tuple[str, str]:
        """The program, and the one that runs when the kernel has skipped it."""
        return f"at_{self.source}", f"again_{self.source}"


def _places(arguments: Arguments, kind: str) -> list[int]:
    return [place for place, argument in enumerate(arguments) if argument == kind]


def _pointers(arguments: Arguments) -> list[int]:
    return [place for place, argument in enumerate(arguments) if argument == "void *"]


def _kmalloc(arguments: Arguments) -> Knobs | None:
    """(call_site, ptr, [cache], bytes_req, bytes_alloc, gfp, …)"""
    pointers, sizes = _pointers(arguments), _places(arguments, "size_t")
    if not pointers or len(sizes) < 2 or arguments[0] != "long unsigned int":
        return None
    return {
        "KMALLOC_PTR": pointers[0],
        "KMALLOC_BYTES_REQ": sizes[0],
        "KMALLOC_BYTES_ALLOC": sizes[1],
    }


def _kmem_cache_alloc(arguments: Arguments) -> Knobs | None:
    """(call_site, ptr, [cache], [bytes_req, bytes_alloc], gfp, …): one of the two exists."""
    pointers, sizes = _pointers(arguments), _places(arguments, "size_t")
    caches = _places(arguments, "kmem_cache *")
    if not pointers or (len(sizes) < 2 and not caches) or arguments[0] != "long unsigned int":
        return None
    knobs = {"KMEM_CACHE_ALLOC_PTR": pointers[0]}
    if caches:
        knobs["KMEM_CACHE_ALLOC_CACHE"] = caches[0]
    if len(sizes) >= 2:
        knobs["KMEM_CACHE_ALLOC_BYTES_REQ"] = sizes[0]
        knobs["KMEM_CACHE_ALLOC_BYTES_ALLOC"] = sizes[1]
    return knobs


def _slab_free(arguments: Arguments) -> Knobs | None:
    """(call_site, ptr, …)"""
    return {} if _pointers(arguments)[:1] == [1] else None


def _page_alloc(arguments: Arguments) -> Knobs | None:
    """(page, order, gfp, migratetype)"""
    if arguments[:2] != ("page *", "unsigned int"):
        return None
    return {"MM_PAGE_ALLOC_PTR": 0, "MM_PAGE_ALLOC_ORDER": 1}


def _page_free(arguments: Arguments) -> Knobs | None:
    """(page, order)"""
    return {} if arguments[:1] == ("page *",) else None


def _percpu_alloc(arguments: Arguments) -> Knobs | None:
    """([call_site], reserved, is_atomic, size, align, base_addr, off, ptr, [bytes_alloc, gfp])"""
    pointers, sizes = _pointers(arguments), _places(arguments, "size_t")
    if len(pointers) != 2 or len(sizes) < 2:
        return None
    knobs = {"PERCPU_ALLOC_PERCPU_PTR": pointers[1], "PERCPU_ALLOC_PERCPU_BYTES_REQ": sizes[0]}
    if len(sizes) >= 3:
        knobs["PERCPU_ALLOC_PERCPU_BYTES_ALLOC"] = sizes[2]
    if arguments[0] == "long unsigned int":
        knobs["PERCPU_ALLOC_PERCPU_CALL_SITE"] = 0
    return knobs


def _percpu_free(arguments: Arguments) -> Knobs | None:
    """(base_addr, off, ptr)"""
    pointers = _pointers(arguments)
    return {"PERCPU_FREE_PERCPU_PTR": pointers[-1]} if len(pointers) == 2 else None


def _vmap_alloc(arguments: Arguments) -> Knobs | None:
    """(addr, size, align, vstart, vend, failed)"""
    if arguments[:5] != ("long unsigned int",) * 5 or len(arguments) != 6:
        return None
    return {
        "ALLOC_VMAP_AREA_PTR": 0,
        "ALLOC_VMAP_AREA_BYTES_ALLOC": 1,
        "ALLOC_VMAP_AREA_FAILED": 5,
    }


def _vmap_free(arguments: Arguments) -> Knobs | None:
    """(va_start, nr_lazy, nr_lazy_max)"""
    return {} if arguments[:1] == ("long unsigned int",) else None


TRACEPOINTS = (
    Tracepoint("kfree", "kfree", Section.SLAB, True, _slab_free),
    Tracepoint("kmem_cache_free", "kmem_cache_free", Section.SLAB, True, _slab_free),
    Tracepoint("kmalloc", "kmalloc", Section.SLAB, False, _kmalloc),
    Tracepoint("kmem_cache_alloc", "kmem_cache_alloc", Section.SLAB, False, _kmem_cache_alloc),
    # Merged with the two above in Linux 6.1; their first arguments are the same.
    Tracepoint("kmalloc_node", "kmalloc", Section.SLAB, False, _kmalloc, required=False),
    Tracepoint(
        "kmem_cache_alloc_node",
        "kmem_cache_alloc",
        Section.SLAB,
        False,
        _kmem_cache_alloc,
        required=False,
    ),
    Tracepoint("mm_page_free", "mm_page_free", Section.PAGES, True, _page_free),
    Tracepoint("mm_page_alloc", "mm_page_alloc", Section.PAGES, False, _page_alloc),
    Tracepoint("percpu_free_percpu", "percpu_free_percpu", Section.PERCPU, True, _percpu_free),
    Tracepoint("percpu_alloc_percpu", "percpu_alloc_percpu", Section.PERCPU, False, _percpu_alloc),
    Tracepoint(
        "free_vmap_area_noflush", "free_vmap_area_noflush", Section.VMALLOC, True, _vmap_free
    ),
    Tracepoint("alloc_vmap_area", "alloc_vmap_area", Section.VMALLOC, False, _vmap_alloc),
)
