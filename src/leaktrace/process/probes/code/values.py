"""Values in a function, and the places that hold them: what is known before each instruction.

Slots are named by their distance from the canonical frame address (CFA), the value of rsp before
the call: the return address is at -8.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from leaktrace.arch.x86_64 import ARGUMENTS, RBP, RSP


@dataclass(frozen=True, slots=True)
class Register:
    """The value is in a register."""

    number: int


@dataclass(frozen=True, slots=True)
class Slot:
    """The value is in the eight bytes at CFA + offset."""

    offset_bytes: int


@dataclass(frozen=True, slots=True)
class Constant:
    """The value is this number."""

    value: int


Place = Register | Slot | Constant
Home = Register | Slot  # what can be written


@dataclass(frozen=True, slots=True)
class Argument:
    """The value of an argument, counted from 0, as the caller passed it."""

    index: int


@dataclass(frozen=True, slots=True)
class Product:
    """The product of two arguments, modulo 2^64."""

    first: int
    second: int


@dataclass(frozen=True, slots=True)
class FrameAddress:
    """CFA + offset."""

    offset_bytes: int


@dataclass(frozen=True, slots=True)
class CallersRbp:
    """The value of rbp at the entry of the function."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A word of memory that is no element of a table, as a pointer to a function is."""


Value = Argument | Product | FrameAddress | CallersRbp | Loaded | Constant
State = dict[Home, Value]
Places = frozenset[Place] | None  # None: no path from here returns, so any place is right


def _order(home: Home) -> tuple[bool, int]:
    """Registers come before slots."""
    if isinstance(home, Slot):
        return True, home.offset_bytes
    return False, home.number


ENTRY_STATE: State = {
    **{Register(number): Argument(index) for index, number in enumerate(ARGUMENTS)},
    Register(RSP): FrameAddress(-8),
    Register(RBP): CallersRbp(),
}
NULL = Constant(0)
FAILED = Constant(-1)  # what wrappers of system calls return on failure


@dataclass
class Values:
    """What is known before each instruction of a flow, by its address."""

    before: dict[int, State] = field(default_factory=dict)
    result: dict[int, Places] = field(default_factory=dict)
    shared: set[int] = field(default_factory=set)  # after a tail call: other functions use it too

    def place_of(self, address: int, value: Value) -> Place | None:
        """Where a value is; a register is preferred to a slot."""
        places = [home for home, held in self.before[address].items() if held == value]
        return min(places, key=_order, default=None)

    def frame(self, address: int) -> tuple[int, int] | None:
        """The register (rsp, else rbp) and the bytes to add to it for the CFA; None: unknown."""
        for number in (RSP, RBP):
            held = self.before[address].get(Register(number))
            if isinstance(held, FrameAddress):
                return number, -held.offset_bytes
        return None
