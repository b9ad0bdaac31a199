"""The notes of a report: what the user has to know about the process to read the figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from platform import machine

from leaktrace.arch.machines import MACHINES
from leaktrace.printable import printable
from leaktrace.process.attach.attachments import HookedObject
from leaktrace.process.untraced import Untraced
from leaktrace.process.walkers import Walker

_MOST_LISTED = 5  # process ids

FIRST_THREAD_EXITED = (
    "its first thread has exited, and with it the list of its mappings: "
    "what it loads from now on gets no names and no probes"
)
BREAK_UNKNOWN = (
    "brk and sbrk are not traced, because the kernel has no type information (BTF): "
    "what a program takes with them itself is in no figure"
)
THREAD_EXECUTED = (
    "a thread other than the first executed a program: "
    "what it allocated in its first moments was missed"
)
LIBRARIES_REPLACED = (
    "libraries were loaded in the place of others, at an unknown time: "
    "stacks of their first moments may name the library that was there before"
)
NO_ALLOCATOR_AFTER_EXEC = (
    "no object of the program that it executed defines malloc and free "
    "(stripped, or Go?): try --faults"
)
CONTINUED_UNSEEN = (
    "leaktrace was busy when it executed a program: if that has an allocator of its own, what it "
    "allocated first is missing"
)
ENDED_UNSEEN = (
    "it has executed a program and ended before leaktrace could look at it: if the program has an "
    "allocator of its own, what it allocated is missing"
)


class Notes:
    """The notes of one run, in the order in which they came up."""

    def __init__(self) -> None:
        self._notes: dict[str, None] = {}

    def add(self, *notes: str) -> None:
        """A note that is there already is not added again."""
        self._notes |= dict.fromkeys(notes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._notes)


def of_refused(path: str, why: str) -> str:
    """An object in which the kernel refuses a probe."""
    return f"{path} is left out: {why}. What it allocates is not in these figures; try --faults"


def of_hooked(hooked: HookedObject) -> Iterator[str]:
    """The functions of an object that are not hooked."""
    if hooked.refused:
        yield (
            f"not hooked in {hooked.name}, because the kernel can't probe them: "
            + ", ".join(hooked.refused)
            + ". Their calls are not in these figures"
        )
    if hooked.left_out:
        has_malloc = not any(one.hook.is_required for one in hooked.left_out)
        yield (
            f"not hooked in {hooked.name}, because it could harm the process: "
            + "; ".join(f"{one.hook.symbol} ({one.reason})" for one in hooked.left_out)
            + ". What is allocated there is not in these figures"
            + (", unless it calls malloc" if has_malloc else "")
        )


def of_walker(walker: Walker, *, was_chosen: bool) -> Iterator[str]:
    """What is missing in stacks. `was_chosen`: the user asked for frame pointers."""
    if walker is Walker.FRAME_POINTERS and not was_chosen:
        why = "this kernel refused the walker by unwind tables"
        here = MACHINES.get(machine())
        if here is None or not here.has_unwind_tables:
            why = f"unwind tables are not supported on {machine()}"
        yield (
            f"stacks are walked by frame pointers, because {why}: most binaries have none, so "
            "compile yours with -fno-omit-frame-pointer"
        )
    if walker is Walker.SINGLE:
        yield "stacks end after 64 frames, because this kernel does not support tail calls in BPF"


def of_exec(name: str) -> str:
    return (
        f"it has executed another program ({printable(name)}): "
        "the memory of the former program was released"
    )


def of_late_object(name: str) -> str:
    return f"{name} was hooked after it was loaded: what it allocated before is unknown"


def of_untraced_object(why: str) -> str:
    return f"an object that was loaded later is not traced: {why}"


def of_children(pid: int, started: int) -> str:
    """`started`: how many it has started under trace; 0 also if that is not known."""
    if started:
        processes = "child process" if started == 1 else "child processes"
        return (
            f"it has started {started:,} {processes} since, not traced: --follow traces them, too"
        )
    return (
        "it has child processes, which are not traced: "
        f"-p {pid} traces one, --follow those that it starts from now on"
    )


def of_older_children(pids: Sequence[int]) -> str:
    """Children that --follow doesn't reach."""
    listed = ",".join(map(str, pids[:_MOST_LISTED])) + (",…" if len(pids) > _MOST_LISTED else "")
    return f"{_children(len(pids))} started before the trace: -p {listed} traces them, too"


def of_untraced(untraced: Untraced) -> Iterator[str]:
    """Why children that should be followed are not traced."""
    if untraced.too_many:
        yield (
            f"{_children(untraced.too_many, 'is', 'are')} not traced, because as many processes "
            "are as --max-processes allows"
        )
    if untraced.ended:
        yield (
            f"{_children(untraced.ended)} ended before tracing could begin there (a program that "
            "is started without a shell, or by its exec, is traced from the start)"
        )
    for message, count in untraced.refused.items():
        yield f"{_children(count, 'is', 'are')} not traced: {message}"


def _children(count: int, verb: str = "", verb_of_many: str = "") -> str:
    if count == 1:
        return f"1 child process {verb}".rstrip()
    return f"{count:,} child processes {verb_of_many}".rstrip()


def of_dropped(count: int) -> Iterator[str]:
    """Ended processes that no report has shown."""
    if count:
        yield (
            f"{count:,} traced processes ended and are in no report, because others needed their "
            "room: raise --max-processes"
        )
