"""Allocators whose functions have names of their own, as data.

They are hooked together with the C library's: an object that defines an allocator's required
functions has it. Calls of one allocator from within another's are nested, and the outermost counts.
So a wrapper that calls malloc needs no line here, and gets none: it would only make calls dearer.

Left out on purpose:

- functions that copy a string (mi_strdup): their size is no argument. Reports name those that are
  called (families.py);
- Rust's own functions (__rust_alloc): they call malloc, or one of the allocators here, or an
  allocator that the program brings. The compiler may inline the release into its callers and not
  the allocation, and what was released would be reported as outstanding;
- the functions of pools that take other arguments under the usual names (mspace_malloc,
  tlsf_malloc).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from leaktrace.abi.process import Function, Outcome
from leaktrace.process.probes.allocators import (
    C_LIBRARY,
    EXTENDED,
    HEAP,
    Allocator,
    Hook,
    release,
)
from leaktrace.process.probes.shape import (
    COUNT_SIZE,
    POSIX_MEMALIGN,
    REALLOC,
    REALLOCARRAY,
    SECOND_SIZE,
    SIZE,
    Shape,
)

_SECOND_COUNT = Shape(count=2, size=3)  # after an alignment, or a heap
_ALIGNED_REALLOC = Shape(old=1, size=3)  # (block, alignment, size)


def _hooks(function: Function, shape: Shape, names: str, *, is_c: bool = True) -> Iterator[Hook]:
    return (Hook(name, function, shape, is_c=is_c) for name in names.split())


def _releases(names: str) -> Iterator[Hook]:
    return map(release, names.split())


def after_heap(shape: Shape) -> Shape:
    """The shape of the same function with a heap as its first argument."""
    return replace(
        shape,
        size=shape.size + 1,
        count=shape.count and shape.count + 1,
        old=shape.old and shape.old + 1,
    )


# --- mimalloc, 1.7 to 3.4 -------------------------------------------------------------------------

_MI_SHAPES = (
    (Function.MALLOC, SIZE, "malloc zalloc malloc_small zalloc_small"),
    (Function.MALLOC, SIZE, "malloc_aligned malloc_aligned_at zalloc_aligned zalloc_aligned_at"),
    (Function.CALLOC, COUNT_SIZE, "calloc mallocn calloc_aligned calloc_aligned_at"),
    (Function.REALLOC, REALLOC, "realloc rezalloc realloc_aligned realloc_aligned_at"),
    (Function.REALLOC, REALLOC, "rezalloc_aligned rezalloc_aligned_at"),
    (Function.REALLOCARRAY, REALLOCARRAY, "reallocn recalloc recalloc_aligned recalloc_aligned_at"),
    (Function.REALLOC, replace(REALLOC, outcome=Outcome.BLOCK_OR_FREED), "reallocf"),
)
_MI_HEAPS = ("mi_heap_", "mi_theap_")  # the second since 3.3
_IN_PLACE = replace(REALLOC, outcome=Outcome.IN_PLACE)
_MIMALLOC = Allocator(
    "mimalloc",
    ("mi_malloc", "mi_free"),
    (
        *(
            Hook(f"mi_{name}", function, shape)
            for function, shape, names in _MI_SHAPES
            for name in names.split()
        ),
        *(
            Hook(f"{heap}{name}", function, after_heap(shape))
            for heap in _MI_HEAPS
            for function, shape, names in _MI_SHAPES
            for name in names.split()
        ),
        *_hooks(Function.MALLOC, SIZE, "mi_umalloc mi_uzalloc mi_umalloc_small mi_uzalloc_small"),
        *_hooks(Function.MALLOC, SIZE, "mi_umalloc_aligned mi_uzalloc_aligned"),
        *_hooks(Function.CALLOC, COUNT_SIZE, "mi_ucalloc"),
        *_hooks(Function.REALLOC, REALLOC, "mi_urealloc"),
        *_hooks(Function.REALLOC, _IN_PLACE, "mi_expand mi__expand"),
        *_hooks(Function.REALLOCARRAY, REALLOCARRAY, "mi_reallocarray mi_aligned_recalloc"),
        *_hooks(Function.REALLOCARRAY, REALLOCARRAY, "mi_aligned_offset_recalloc"),
        # (address of the block, count, size)
        *_hooks(
            Function.REALLOCARRAY,
            Shape(old=1, memptr=1, count=2, size=3, outcome=Outcome.STATUS),
            "mi_reallocarr",
        ),
        *_hooks(Function.POSIX_MEMALIGN, POSIX_MEMALIGN, "mi_posix_memalign"),
        *_hooks(Function.MEMALIGN, SECOND_SIZE, "mi_memalign"),
        *_hooks(Function.ALIGNED_ALLOC, SECOND_SIZE, "mi_aligned_alloc"),
        *_hooks(Function.VALLOC, SIZE, "mi_valloc"),
        *_hooks(Function.PVALLOC, SIZE, "mi_pvalloc"),
        *_hooks(
            Function.OPERATOR_NEW,
            SIZE,
            "mi_new mi_new_nothrow mi_new_aligned mi_new_aligned_nothrow",
            is_c=False,
        ),
        *_hooks(Function.OPERATOR_NEW, COUNT_SIZE, "mi_new_n", is_c=False),
        *_hooks(Function.OPERATOR_NEW, SECOND_SIZE, "mi_heap_alloc_new", is_c=False),
        *_hooks(Function.OPERATOR_NEW, _SECOND_COUNT, "mi_heap_alloc_new_n", is_c=False),
        *_hooks(Function.REALLOC, REALLOC, "mi_new_realloc", is_c=False),
        *_hooks(Function.REALLOCARRAY, REALLOCARRAY, "mi_new_reallocn", is_c=False),
        *_releases("mi_free mi_free_size mi_free_size_aligned mi_free_aligned mi_cfree mi_ufree"),
        *_releases("mi_free_small"),
    ),
    # CPython has a copy, which only builds without the global lock use.
    unless=("PyObject_Malloc",),
)

# --- tcmalloc -------------------------------------------------------------------------------------

# In gperftools these are the same functions as malloc and operator new, unless they were built
# without replacing those.
_TCMALLOC = Allocator(
    "tcmalloc",
    ("tc_malloc", "tc_free"),
    (
        *_hooks(Function.MALLOC, SIZE, "tc_malloc tc_malloc_skip_new_handler"),
        *_hooks(Function.CALLOC, COUNT_SIZE, "tc_calloc"),
        *_hooks(Function.REALLOC, REALLOC, "tc_realloc"),
        *_hooks(Function.MEMALIGN, SECOND_SIZE, "tc_memalign"),
        *_hooks(Function.POSIX_MEMALIGN, POSIX_MEMALIGN, "tc_posix_memalign"),
        *_hooks(Function.VALLOC, SIZE, "tc_valloc"),
        *_hooks(Function.PVALLOC, SIZE, "tc_pvalloc"),
        *_hooks(
            Function.OPERATOR_NEW,
            SIZE,
            "tc_new tc_newarray tc_new_nothrow tc_newarray_nothrow tc_new_aligned "
            "tc_newarray_aligned tc_new_aligned_nothrow tc_newarray_aligned_nothrow",
            is_c=False,
        ),
        *_releases("tc_free tc_free_sized tc_free_aligned_sized tc_cfree"),
        *_releases(
            "tc_delete tc_deletearray tc_delete_sized tc_deletearray_sized tc_delete_nothrow "
            "tc_deletearray_nothrow tc_delete_aligned tc_deletearray_aligned "
            "tc_delete_sized_aligned tc_deletearray_sized_aligned tc_delete_aligned_nothrow "
            "tc_deletearray_aligned_nothrow"
        ),
    ),
)

# --- rpmalloc -------------------------------------------------------------------------------------

_RPMALLOC = Allocator(
    "rpmalloc",
    ("rpmalloc", "rpfree"),
    (
        *_hooks(Function.MALLOC, SIZE, "rpmalloc rpzalloc"),
        *_hooks(Function.CALLOC, COUNT_SIZE, "rpcalloc"),
        *_hooks(Function.REALLOC, REALLOC, "rprealloc"),
        *_hooks(Function.ALIGNED_ALLOC, SECOND_SIZE, "rpaligned_alloc rpaligned_zalloc"),
        *_hooks(Function.CALLOC, _SECOND_COUNT, "rpaligned_calloc"),
        *_hooks(Function.REALLOC, _ALIGNED_REALLOC, "rpaligned_realloc"),
        *_hooks(Function.MEMALIGN, SECOND_SIZE, "rpmemalign"),
        *_hooks(Function.POSIX_MEMALIGN, POSIX_MEMALIGN, "rpposix_memalign"),
        *_releases("rpfree"),
    ),
)

# --- snmalloc -------------------------------------------------------------------------------------

_SNMALLOC_RUST = Allocator(
    "snmalloc",
    ("sn_rust_alloc", "sn_rust_dealloc"),
    (
        *_hooks(Function.MALLOC, SECOND_SIZE, "sn_rust_alloc sn_rust_alloc_zeroed"),
        # (block, alignment, old size, new size)
        *_hooks(Function.REALLOC, Shape(old=1, size=4), "sn_rust_realloc"),
        *_releases("sn_rust_dealloc"),
    ),
)

# --- the allocator of oneTBB ----------------------------------------------------------------------

_TBBMALLOC = Allocator(
    "tbbmalloc",
    ("scalable_malloc", "scalable_free"),
    (
        *_hooks(Function.MALLOC, SIZE, "scalable_malloc scalable_aligned_malloc"),
        *_hooks(Function.CALLOC, COUNT_SIZE, "scalable_calloc"),
        *_hooks(Function.REALLOC, REALLOC, "scalable_realloc scalable_aligned_realloc"),
        *_hooks(Function.POSIX_MEMALIGN, POSIX_MEMALIGN, "scalable_posix_memalign"),
        *_releases("scalable_free scalable_aligned_free"),
    ),
)


# --- the names of the C library with a prefix -----------------------------------------------------


def with_prefix(prefix: str, hooks: Iterable[Hook] = (*HEAP, *EXTENDED)) -> Allocator:
    """The allocator whose functions have the usual names after a prefix (_rjem_malloc)."""
    return Allocator(
        prefix,
        (f"{prefix}malloc", f"{prefix}free"),
        tuple(replace(hook, symbol=prefix + hook.symbol) for hook in hooks),
    )


OTHERS = (
    _MIMALLOC,
    _TCMALLOC,
    _RPMALLOC,
    _SNMALLOC_RUST,
    _TBBMALLOC,
    *(with_prefix(prefix) for prefix in ("sn_", "scudo_")),
)

# What a jump or a call to another object may lead to.
KNOWN_SIGNATURES = {
    hook.symbol: hook.signature for one in (C_LIBRARY, *OTHERS) for hook in one.functions
}
