"""The functions that are hooked, because they allocate or release memory, as data.

To support another function, add a line here, and a program in bpf/process/entries.bpf.c if no
existing program reads its arguments.
"""

from __future__ import annotations

from dataclasses import dataclass

from leaktrace.abi.process import Function


@dataclass(frozen=True)
class Hook:
    """A function to hook: its symbol, the program for its arguments, whether its return matters."""

    symbol: str
    function: Function
    program: str
    argument_count: int  # that the program reads
    has_return: bool = True
    # Whether nothing ever unwinds through it, so that a return probe is safe if it has no points: C
    # functions, known by name. C++ operators throw.
    is_c: bool = True
    # Of a function that the user named (--pair): the pair's number, from 1, and which argument is
    # the size, or, of a release, the object; from 1, and 0 for no size.
    space: int = 0
    argument: int = 0


POINT_PROGRAM = "at_point"  # for calls that are followed by points within the function
RELEASE_PROGRAM = "enter_free"
RELEASE_OF_PAIR_PROGRAM = "release_of_pair"
RETURN_PROGRAM = "return_from"
OBJECTS_PROGRAM = "at_objects"  # the dynamic loader changes its list of objects (loader.py)
ANY_ENTRY_PROGRAM = "enter_any"  # replaces the programs for entries where the kernel has cookies

# An object that defines both is an allocator; the other functions are hooked if they exist.
REQUIRED = ("malloc", "free")

HEAP = (
    Hook("malloc", Function.MALLOC, "enter_size", 1),
    Hook("free", Function.FREE, RELEASE_PROGRAM, 1, has_return=False),
    Hook("calloc", Function.CALLOC, "enter_count_size", 2),
    Hook("realloc", Function.REALLOC, "enter_realloc", 2),
    Hook("reallocarray", Function.REALLOCARRAY, "enter_reallocarray", 3),
    Hook("posix_memalign", Function.POSIX_MEMALIGN, "enter_posix_memalign", 3),
    Hook("aligned_alloc", Function.ALIGNED_ALLOC, "enter_alignment_size", 2),
    Hook("memalign", Function.MEMALIGN, "enter_alignment_size", 2),
    Hook("valloc", Function.VALLOC, "enter_size", 1),
    Hook("pvalloc", Function.PVALLOC, "enter_size", 1),
)

# Other functions of replacement allocators: C++ operators that don't call malloc, and the functions
# of jemalloc. libstdc++'s operators call malloc and aren't hooked; libstdc++ is no allocator.
_NEW = ("_Znwm", "_Znam")
_DELETE = ("_ZdlPv", "_ZdaPv")
_ALIGNED = "St11align_val_t"
_NOTHROW = "RKSt9nothrow_t"
OPERATORS = (
    *(
        Hook(new + suffix, Function.OPERATOR_NEW, "enter_size", 1, is_c=False)
        for new in _NEW
        for suffix in ("", _NOTHROW, _ALIGNED, _ALIGNED + _NOTHROW)
    ),
    *(
        Hook(delete + suffix, Function.FREE, RELEASE_PROGRAM, 1, has_return=False)
        for delete in _DELETE
        for suffix in ("", "m", _NOTHROW, _ALIGNED, "m" + _ALIGNED, _ALIGNED + _NOTHROW)
    ),
    Hook("mallocx", Function.MALLOCX, "enter_size", 1),
    Hook("rallocx", Function.RALLOCX, "enter_realloc", 2),
    *(
        Hook(name, Function.FREE, RELEASE_PROGRAM, 1, has_return=False)
        for name in ("dallocx", "sdallocx", "free_sized", "free_aligned_sized", "cfree")
    ),
)

REGIONS = (
    Hook("mmap", Function.MMAP, "enter_mmap", 2),
    Hook("munmap", Function.MUNMAP, "enter_munmap", 2),
    Hook("mremap", Function.MREMAP, "enter_mremap", 4),
)

FUNCTION_NAMES = {
    Function.OPERATOR_NEW: "operator new",
    **{hook.function: hook.symbol for hook in (*HEAP, *REGIONS)},
    Function.MALLOCX: "mallocx",
    Function.RALLOCX: "rallocx",
}
