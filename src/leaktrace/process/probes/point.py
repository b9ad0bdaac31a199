"""A point: a probe inside a function, and what is known there."""

from __future__ import annotations

from dataclasses import dataclass

from leaktrace.abi.process import Action, Function
from leaktrace.process.probes.code.values import Place
from leaktrace.process.probes.shape import Shape


@dataclass(frozen=True)
class Point:
    """A probe inside a function, with the places of the values that it reads."""

    vaddr: int
    action: Action
    function: Function
    shape: Shape
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
