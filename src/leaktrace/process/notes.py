"""What a report tells of the process beside the figures: each note once, in words that hold for as
long as the report is read."""

from __future__ import annotations

from collections.abc import Iterator
from platform import machine

from leaktrace.printable import printable
from leaktrace.process.attach.attach import HookedObject
from leaktrace.process.probes.allocators import REQUIRED
from leaktrace.process.walkers import Walker

FIRST_THREAD_EXITED = (
    "its first thread has exited, and with it the list of its mappings: "
    "what it loads from now on has no names and no probes"
)
THREAD_EXECUTED = (
    "another thread than the first executed a program: "
    "what it allocated in its first moments was missed"
)
LIBRARIES_REPLACED = (
    "libraries have taken the place of others, and when is not known: "
    "stacks of their first moments may name the one that was there before"
)
NO_ALLOCATOR_AFTER_EXEC = (
    "no object of the program that it executed defines malloc and free "
    "(stripped, or Go?): try --faults"
)


class Notes:
    """Those of one run, in the order in which they came up."""

    def __init__(self) -> None:
        self._told: dict[str, None] = {}

    def add(self, *notes: str) -> None:
        """A note that was there before is not told again."""
        self._told |= dict.fromkeys(notes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._told)


def of_refused(path: str, why: str) -> str:
    """An object that the kernel lets nobody probe."""
    return f"{path} is left out: {why}. What it hands out is not in these figures"


def of_hooked(hooked: HookedObject) -> Iterator[str]:
    """What isn't hooked of an object."""
    if hooked.refused:
        yield (
            f"not hooked in {hooked.name}, because the kernel can't probe them: "
            + ", ".join(hooked.refused)
        )
    if hooked.left_out:
        has_malloc = all(one.hook.symbol not in REQUIRED for one in hooked.left_out)
        yield (
            f"not hooked in {hooked.name}, because it could harm the process: "
            + "; ".join(f"{one.hook.symbol} ({one.reason})" for one in hooked.left_out)
            + ". What is allocated there is not in these figures"
            + (", unless it calls malloc" if has_malloc else "")
        )


def of_walker(walker: Walker, *, was_chosen: bool) -> Iterator[str]:
    """What stacks lack; `was_chosen`: the user wants them by frame pointers."""
    if walker is Walker.FRAME_POINTERS and not was_chosen:
        why = "this kernel refused the walker by unwind tables"
        if machine() != "x86_64":
            why = f"unwind tables are not supported on {machine()}"
        yield f"stacks are walked by frame pointers, which most binaries lack: {why}"
    if walker is Walker.SINGLE:
        yield "stacks are cut at 64 frames: this kernel refused tail calls"


def of_exec(name: str) -> str:
    return f"it has executed another program ({printable(name)}): what came before is gone"


def of_late_object(name: str) -> str:
    return f"{name} was hooked when it was first seen: what it handed out before is unknown"


def of_untraced_object(why: str) -> str:
    return f"an object that was loaded later is not traced: {why}"


def of_children(pid: int) -> str:
    return f"it has started child processes, which are not traced: see leaktrace -p {pid}"
