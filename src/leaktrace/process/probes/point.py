"""A point: a probe inside a function, and what is known there."""

from __future__ import annotations

from dataclasses import dataclass

from leaktrace.abi.process import MAPPING_FUNCTIONS, Action, Function
from leaktrace.process.probes.code.values import Place

# Functions that return an int: only the lower half of rax counts.
NARROW = frozenset({Function.POSIX_MEMALIGN, Function.MUNMAP})


@dataclass(frozen=True)
class Point:
    """A probe inside a function, with the places of the values that it reads."""

    vaddr: int
    action: Action
    function: Function
    instruction: str
    emulated: bool
    frame: tuple[int, int]  # register and what to add to it for the CFA
    callers_rbp: Place | None  # None: lost
    sizes: tuple[Place, ...] = ()  # of a begin or both: the size, or two factors of it
    by_arguments: bool = False  # of a begin: all arguments are in their registers
    result: Place | None = None
    condition: int | None = None  # of a jcc: only where this condition code holds
    may_be_unopened: bool = False  # of an end: also reached where no call is open
    may_begin_again: bool = False  # of a begin: code that the function jumps to may call it again
    towards: int | None = None  # where control goes on if `condition` holds


_MOST_ERRNO = 4095  # a system call returns a negated errno (include/linux/err.h)


def is_failure(function: Function, value: int) -> bool:
    """Whether a function that returns this number has allocated, or released, nothing."""
    if function is Function.PAIR:  # an int may be extended to 64 bits by zeros
        result = value % (1 << 64)
        return any(
            -result % (1 << bits) <= _MOST_ERRNO for bits in (64, 32) if result < 1 << bits
        )
    if function in MAPPING_FUNCTIONS:
        return value == -1
    if function in NARROW:
        return value != 0
    return value == 0
