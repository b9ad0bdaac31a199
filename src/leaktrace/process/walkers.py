"""The ways to walk a stack in the kernel, and which of them to try on this machine."""

from __future__ import annotations

import os
from enum import StrEnum

from leaktrace.arch.machines import this_machine
from leaktrace.bpf import support
from leaktrace.errors import EnvironmentUnfitError
from leaktrace.options import StackWalker


class Walker(StrEnum):
    """How stacks are walked; in the order in which they are tried."""

    TAIL_CALLS = "unwind tables"
    SINGLE = "unwind tables, 64 frames at most"
    FRAME_POINTERS = "frame pointers"

    @property
    def uses_tables(self) -> bool:
        return self is not Walker.FRAME_POINTERS

    def knobs(self) -> dict[str, int]:
        """The -D flags of bpf/process/config.h for this walker.

        Programs of 16 frames each are verified eight times as fast as one of 127, and any kernel
        that takes 64 frames takes them. The first program starts walking at once: a tail call and
        finding the thread again cost as much as four frames. Without tail calls, 64 frames.
        """
        match self:
            case Walker.TAIL_CALLS:
                return {"WALK_PARTS": 8, "WALK_STEPS": 16}
            case Walker.SINGLE:
                return {"WALK_PARTS": 1, "WALK_STEPS": 64}
            case Walker.FRAME_POINTERS:
                return {"WALK_BY_TABLE": 0}


def walkers_to_try(choice: StackWalker) -> tuple[Walker, ...]:
    """The walkers that `choice` allows, best first.

    Raises EnvironmentUnfitError when unwind tables are asked for and can't be used here.
    """
    machine = this_machine()
    has_tables = machine is not None and machine.has_unwind_tables
    if choice is StackWalker.EH_FRAME and not has_tables:
        raise EnvironmentUnfitError(
            f"unwind tables are not supported on {os.uname().machine}",
            "use --stack-walker fp, with programs compiled with -fno-omit-frame-pointer",
        )
    if choice is StackWalker.FP or not has_tables:
        return (Walker.FRAME_POINTERS,)
    tables = (Walker.TAIL_CALLS, Walker.SINGLE)
    candidates = tables if choice is StackWalker.EH_FRAME else (*tables, Walker.FRAME_POINTERS)
    left = tuple(w for w in candidates if not support.declined(w.name.lower()))
    if not left:
        raise EnvironmentUnfitError(
            "the kernel refuses every walker by unwind tables", "leave --stack-walker out"
        )
    return left
