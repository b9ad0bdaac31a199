"""The functions of the C library and C++ that are hooked, because they allocate or release memory,
as data; and those of jemalloc, which has the same names. Other allocators: other_allocators.py.

To support another function, add a line here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from leaktrace.abi import process as abi
from leaktrace.abi.process import Function, Outcome
from leaktrace.process.probes.shape import (
    BLOCK,
    COUNT_SIZE,
    MREMAP,
    POSIX_MEMALIGN,
    REALLOC,
    REALLOCARRAY,
    SECOND_SIZE,
    SIZE,
    Shape,
    Signature,
)


@dataclass(frozen=True)
class Hook:
    """A function to hook: its symbol, its name in reports, its arguments, whether its return
    matters."""

    symbol: str
    function: Function
    shape: Shape
    has_return: bool = True
    # Whether nothing ever unwinds through it, so that a return probe is safe if it has no points: C
    # functions, known by name. C++ operators throw.
    is_c: bool = True
    # Without it the allocator is not hooked: a record would be made and never removed.
    is_required: bool = False
    space: int = 0  # of a function that the user named (--pair): the number of the pair, from 1

    @property
    def signature(self) -> Signature:
        return Signature(self.function, self.shape)

    @property
    def argument_count(self) -> int:
        """How many arguments its program reads."""
        return self.signature.argument_count

    @property
    def program(self) -> str:
        """The program at its entry; ANY_ENTRY_PROGRAM where only that one knows the shape."""
        if not self.has_return:
            if self.space:
                return RELEASE_OF_PAIR_PROGRAM
            return _OTHER_PROGRAMS.get(self.function, RELEASE_PROGRAM)
        if self.signature.maps:
            return _MAPPING_PROGRAMS[self.function]
        return _PROGRAMS.get(self.shape, ANY_ENTRY_PROGRAM)

    @property
    def cookie(self) -> int:
        """What tells that program which function was hit."""
        return (
            int(self.function)
            | self.shape.bits << abi.COOKIE_SHAPE_SHIFT
            | self.space << abi.COOKIE_SPACE_SHIFT
        )


POINT_PROGRAM = "at_point"  # for calls that are followed by points within the function
RELEASE_PROGRAM = "enter_free"
RELEASE_OF_PAIR_PROGRAM = "release_of_pair"
RETURN_PROGRAM = "return_from"
OBJECTS_PROGRAM = "at_objects"  # the dynamic loader changes its list of objects (loader.py)
START_PROGRAM = "at_start"  # a command starts, and functions that the user named are hooked
EXIT_PROGRAM = "at_exit"  # a command is about to exit
ANY_ENTRY_PROGRAM = "enter_any"  # replaces those for entries where the kernel has cookies
# The programs for entries where it has none: a function with another shape isn't hooked there.
_PROGRAMS = {
    SIZE: "enter_size",
    COUNT_SIZE: "enter_count_size",
    SECOND_SIZE: "enter_alignment_size",
    POSIX_MEMALIGN: "enter_posix_memalign",
    REALLOC: "enter_realloc",
    REALLOCARRAY: "enter_reallocarray",
}
_MAPPING_PROGRAMS = {
    Function.MMAP: "enter_mmap",
    Function.MUNMAP: "enter_munmap",
    Function.MREMAP: "enter_mremap",
}
_OTHER_PROGRAMS = {
    Function.NONE: OBJECTS_PROGRAM,
    Function.START: START_PROGRAM,
    Function.EXIT: EXIT_PROGRAM,
}
ENTRY_PROGRAMS = (*_PROGRAMS.values(), *_MAPPING_PROGRAMS.values())

# An object that defines both is an allocator; the other functions are hooked if they exist.
REQUIRED = ("malloc", "free")


def release(symbol: str) -> Hook:
    """A function that releases the block that is its first argument."""
    return Hook(symbol, Function.FREE, BLOCK, has_return=False)


HEAP = (
    Hook("malloc", Function.MALLOC, SIZE),
    release("free"),
    Hook("calloc", Function.CALLOC, COUNT_SIZE),
    Hook("realloc", Function.REALLOC, REALLOC),
    Hook("reallocarray", Function.REALLOCARRAY, REALLOCARRAY),
    Hook("posix_memalign", Function.POSIX_MEMALIGN, POSIX_MEMALIGN),
    Hook("aligned_alloc", Function.ALIGNED_ALLOC, SECOND_SIZE),
    Hook("memalign", Function.MEMALIGN, SECOND_SIZE),
    Hook("valloc", Function.VALLOC, SIZE),
    Hook("pvalloc", Function.PVALLOC, SIZE),
)

# Of allocators whose operators don't call malloc. Those of libstdc++ call malloc and aren't hooked:
# libstdc++ is no allocator.
_NEW = ("_Znwm", "_Znam")
_DELETE = ("_ZdlPv", "_ZdaPv")
_ALIGNED = "St11align_val_t"
_NOTHROW = "RKSt9nothrow_t"
OPERATORS = (
    *(
        Hook(new + suffix, Function.OPERATOR_NEW, SIZE, is_c=False)
        for new in _NEW
        for suffix in ("", _NOTHROW, _ALIGNED, _ALIGNED + _NOTHROW)
    ),
    *(
        release(delete + suffix)
        for delete in _DELETE
        for suffix in ("", "m", _NOTHROW, _ALIGNED, "m" + _ALIGNED, _ALIGNED + _NOTHROW)
    ),
)
# What only some allocators have: the functions of jemalloc, and those that C23 adds.
EXTENDED = (
    Hook("mallocx", Function.MALLOCX, SIZE),
    Hook("rallocx", Function.RALLOCX, REALLOC),
    # (block, size, bytes that may be added, flags)
    Hook("xallocx", Function.XALLOCX, Shape(old=1, size=2, count=3, outcome=Outcome.NEW_SIZE)),
    *map(release, ("dallocx", "sdallocx", "free_sized", "free_aligned_sized", "cfree")),
)

REGIONS = (
    Hook("mmap", Function.MMAP, SECOND_SIZE),
    Hook("munmap", Function.MUNMAP, SECOND_SIZE),
    Hook("mremap", Function.MREMAP, MREMAP),
)


@dataclass(frozen=True)
class Allocator:
    """An allocator, by its functions. An object that defines the required ones has it."""

    name: str
    required: tuple[str, str]  # the function that allocates, and the one that releases
    functions: tuple[Hook, ...]
    unless: tuple[str, ...] = ()  # with one of these in the same object, it isn't used

    @cached_property
    def hooks(self) -> tuple[Hook, ...]:
        return tuple(
            replace(hook, is_required=True) if hook.symbol in self.required else hook
            for hook in self.functions
        )

    def names(self) -> Iterator[str]:
        """The names of its functions."""
        return (hook.symbol for hook in self.functions)


C_LIBRARY = Allocator("the C library", REQUIRED, (*HEAP, *REGIONS, *OPERATORS, *EXTENDED))

FUNCTION_NAMES = {
    Function.OPERATOR_NEW: "operator new",
    **{hook.function: hook.symbol for hook in (*HEAP, *REGIONS)},
    Function.MALLOCX: "mallocx",
    Function.RALLOCX: "rallocx",
    Function.XALLOCX: "xallocx",
}
