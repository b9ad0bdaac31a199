"""How a hooked function is called: which argument is the size, which the old block, and so on.

This is what tells the functions of allocators apart. The kernel side gets it as 16 bits, with each
point and each probe at an entry, so a function with other arguments needs no other program.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from leaktrace.abi import process as abi
from leaktrace.abi.process import (
    MAPPING_FUNCTIONS,
    UNMAPPING_FUNCTIONS,
    Function,
    Outcome,
)

_MOST_ERRNO = 4095  # a system call returns a negated errno (include/linux/err.h)


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers of a function's arguments, from 1 to 6; 0: it has no such argument."""

    size: int = 0
    count: int = 0  # a factor of the size. With Outcome.NEW_SIZE: bytes that may be added
    old: int = 0  # the block that the call takes over; the same as `memptr`: the one at *memptr
    memptr: int = 0  # where the call stores the address of the block
    outcome: Outcome = Outcome.BLOCK

    def __post_init__(self) -> None:
        if not all(0 <= number < abi.SHAPE_ARGUMENT_MASK for number in self._numbers):
            raise ValueError(f"no function has these arguments: {self}")

    @property
    def _numbers(self) -> tuple[int, ...]:
        return self.size, self.count, self.old, self.memptr

    @property
    def argument_count(self) -> int:
        """The highest number."""
        return max(self._numbers)

    @property
    def moves_block(self) -> bool:
        """Whether a call may release the old block."""
        return self.old > 0 and self.outcome not in (Outcome.IN_PLACE, Outcome.NEW_SIZE)

    @property
    def bits(self) -> int:
        """As the kernel side gets it."""
        return (
            self.size << abi.SHAPE_SIZE_SHIFT
            | self.count << abi.SHAPE_COUNT_SHIFT
            | self.old << abi.SHAPE_OLD_SHIFT
            | self.memptr << abi.SHAPE_MEMPTR_SHIFT
            | self.outcome << abi.SHAPE_OUTCOME_SHIFT
        )

    @classmethod
    def from_bits(cls, bits: int) -> Self:
        """The shape with these `bits`. Raises ValueError if there is none."""
        size, count, old, memptr = (
            bits >> shift & abi.SHAPE_ARGUMENT_MASK
            for shift in (
                abi.SHAPE_SIZE_SHIFT,
                abi.SHAPE_COUNT_SHIFT,
                abi.SHAPE_OLD_SHIFT,
                abi.SHAPE_MEMPTR_SHIFT,
            )
        )
        return cls(size, count, old, memptr, Outcome(bits >> abi.SHAPE_OUTCOME_SHIFT))


@dataclass(frozen=True, slots=True)
class Signature:
    """A function as the analysis of its code sees it."""

    function: Function
    shape: Shape

    @property
    def argument_count(self) -> int:
        """How many arguments, from the first on, the kernel side reads."""
        if self.function is Function.MREMAP:
            return 4  # also the flags
        if self.function is Function.SHMDT:
            return 1  # the address, which is no block's
        return self.shape.argument_count

    @property
    def returns_int(self) -> bool:
        """Whether only the lower half of rax counts."""
        return (
            self.shape.outcome is Outcome.STATUS
            or self.function in UNMAPPING_FUNCTIONS
            or self.function is Function.BRK
        )

    @property
    def maps(self) -> bool:
        """Whether it maps or unmaps memory, as opposed to allocating blocks of a heap."""
        return self.function in MAPPING_FUNCTIONS or self.function in UNMAPPING_FUNCTIONS

    @property
    def takes_only_sizes(self) -> bool:
        """Whether nothing but its size matters, which any point may know."""
        shape = self.shape
        return (
            shape.size > 0
            and not shape.old
            and not shape.memptr
            and shape.outcome is Outcome.BLOCK
            and (not self.maps or self.function is Function.MMAP)
        )

    def is_failure(self, value: int) -> bool:
        """Whether a call that returns this number has allocated, or released, nothing."""
        if self.function is Function.PAIR:  # an int may be extended to 64 bits by zeros
            result = value % (1 << 64)
            return any(
                -result % (1 << bits) <= _MOST_ERRNO for bits in (64, 32) if result < 1 << bits
            )
        if self.function in MAPPING_FUNCTIONS and not self.returns_int:
            return value == -1
        if self.shape.outcome is Outcome.NEW_SIZE:
            return False  # it depends on the size
        if self.returns_int:
            return value != 0
        return value == 0


SIZE = Shape(size=1)
COUNT_SIZE = Shape(count=1, size=2)
SECOND_SIZE = Shape(size=2)  # after an alignment, or a heap
POSIX_MEMALIGN = Shape(memptr=1, size=3, outcome=Outcome.STATUS)
REALLOC = Shape(old=1, size=2)
REALLOCARRAY = Shape(old=1, count=2, size=3)
MREMAP = Shape(size=3)
BLOCK = Shape(old=1)  # of a release
NO_SIZE = Shape()  # what it maps, or unmaps, is found out otherwise
