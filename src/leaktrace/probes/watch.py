"""Watches over the probes while they are on: are they still there, and who has them besides?

A debugger that removes a breakpoint of its own writes back what it found there: over a probe that
came later, or, once tracing has ended, a breakpoint that is nobody's, and kills the process. And a
child is born with its parent's breakpoints, each of which costs it a trap, although the kernel runs
no program for it. docs/safety.md has the figures.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from leaktrace.keeper import Keeper
from leaktrace.links import UprobeLinks
from leaktrace.notices import hint, tell
from leaktrace.probes.plan import ObjectPlan
from leaktrace.probes.touch import touch
from leaktrace.probes.verify import is_patched
from leaktrace.symbols.names import printable
from leaktrace.target.mappings import Mapping
from leaktrace.target.process import debugger_of

_BREAKPOINT = 0xCC  # int3
# Forks that come together are dealt with together; bpf/life.bpf.c tells of one in 100 ms at most.
_AFTER_FORK_S = 0.2
_BETWEEN_LOOKS_S = 1.0


@dataclass(frozen=True)
class _Watched:
    """The probes of one object; its file is held open."""

    plan: ObjectPlan
    descriptor: int
    offsets: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.plan.name

    def code(self, mappings: Iterable[Mapping]) -> list[Mapping]:
        """Where the process has its instructions."""
        return [m for m in mappings if m.is_executable and self.plan.is_mapped_as(m)]

    @property
    def open_path(self) -> str:
        return f"/proc/self/fd/{self.descriptor}"


class ProbeWatch:
    """The probes of one process, on x86-64 (elsewhere nothing is watched)."""

    def __init__(self, pid: int, keeper: Keeper, way: UprobeLinks) -> None:
        self._pid = pid
        self._keeper = keeper
        self._way = way
        self._objects: list[_Watched] = []
        self._due_s: float | None = None
        self._looked_s = float("-inf")
        self._put_back = 0
        self._patched = False
        self.debugger = 0  # who held the process when it was last looked at

    def add(self, plan: ObjectPlan, offsets: tuple[int, ...]) -> None:
        """Watch the probes of an object, which are on now; `offsets` in its file."""
        descriptor = plan.elf.descriptor
        if descriptor is None or plan.elf.machine != "EM_X86_64":
            return
        self._objects.append(_Watched(plan, os.dup(descriptor), offsets))

    # --- children ---------------------------------------------------------------------------

    def forked(self) -> None:
        """The process has a new thread or child: it is looked at soon."""
        if self._due_s is None and self._way is not UprobeLinks.EVENTS:
            soonest_s = time.monotonic() + _AFTER_FORK_S
            self._due_s = max(soonest_s, self._looked_s + _BETWEEN_LOOKS_S)

    def due_s(self) -> float | None:
        """When `free_children` is due, on the clock of time.monotonic(); None: it isn't."""
        return self._due_s

    def free_children(self, children: Sequence[int], mappings: Sequence[Mapping]) -> None:
        """Take our breakpoints out of children that were forked with them. (Perf events drop out by
        themselves.) Raises KeeperGoneError."""
        self._due_s = None
        self._looked_s = time.monotonic()
        for one in self._objects:
            places = _addresses(one, mappings)
            # Where a child has executed something else, another byte is there, or none.
            first = next(iter(places.values()), None)
            if first is not None and any(
                _byte_at(child, first) == _BREAKPOINT for child in children
            ):
                self._touch(one, places, mappings)

    # --- debuggers --------------------------------------------------------------------------

    def look(self, mappings: Sequence[Mapping]) -> Iterator[str]:
        """Put back probes that were overwritten. What a report should say of it.

        Raises KeeperGoneError.
        """
        self.debugger = debugger_of(self._pid)
        for one in self._objects:
            gone = [
                offset
                for offset, at in _addresses(one, mappings).items()
                if _byte_at(self._pid, at) not in (None, _BREAKPOINT)
            ]
            if gone:
                put_back = self._touch(one, gone, mappings)
                self._put_back += put_back
                self._patched |= put_back < len(gone)
        if self._put_back:
            yield (
                f"{self._put_back} of its probes had been overwritten, most likely by a debugger, "
                "and were put back: calls in between are missing"
            )
        if self._patched:
            yield (
                "it has patched its own code where probes were: they are left off, and calls that "
                "go by its patch are missing"
            )
        if self.debugger:
            yield (
                f"process {self.debugger} ({_name_of(self.debugger)}) debugs it: a breakpoint in "
                "an allocation function and a probe there overwrite each other, so set none "
                "(docs/safety.md)"
            )

    def unseen(self, mappings: Sequence[Mapping]) -> Iterator[str]:
        """What a report should say of objects whose code was moved out of its file's mapping."""
        for one in self._objects:
            if not _addresses(one, mappings) and any(
                one.plan.is_mapped_as(mapping) for mapping in mappings
            ):
                yield (
                    f"the code of {one.name} lies in memory that no file backs (moved to huge "
                    "pages?): calls there can't be seen. Try --faults"
                )

    def end(self, mappings: Sequence[Mapping]) -> None:
        """The probes are off: what is left in their places is a debugger's doing.

        Raises KeeperGoneError.
        """
        debugger = debugger_of(self._pid)
        if debugger:
            tell(
                f"{_name_of(debugger)} (process {debugger}) still debugs process {self._pid}: if "
                "it set a breakpoint in an allocation function while leaktrace was there, its "
                "removal may leave one behind, which ends the process when it is hit"
            )
            hint(
                f"when {_name_of(debugger)} has left, run leaktrace -p {self._pid} once more: that "
                "removes what is left"
            )
            return
        for one in self._objects:
            left = [
                offset
                for offset, at in _addresses(one, mappings).items()
                if _byte_at(self._pid, at) == _BREAKPOINT != os.pread(one.descriptor, 1, offset)[0]
            ]
            if left:
                self._touch(one, left, mappings)

    def _touch(self, one: _Watched, offsets: Iterable[int], mappings: Sequence[Mapping]) -> int:
        """Have the kernel look at some places, but for those that the process has patched: it would
        write a breakpoint over the patch, and carry out the file's instruction. Returns how many.
        """
        code = one.code(mappings)
        places: list[int] = []
        with suppress(OSError), Path(f"/proc/{self._pid}/mem").open("rb", buffering=0) as memory:
            places = [
                offset
                for offset in offsets
                if not is_patched(memory.fileno(), one.descriptor, code, offset)
            ]
        if places:
            touch(self._keeper, self._pid, one.open_path, places, self._way)
        return len(places)

    def close(self) -> None:
        """Watch nothing any more."""
        for one in self._objects:
            os.close(one.descriptor)
        self._objects = []


def _addresses(one: _Watched, mappings: Iterable[Mapping]) -> dict[int, int]:
    """Where the process has the instructions that carry the probes, by their offsets."""
    found = {}
    code = one.code(mappings)
    for offset in one.offsets:
        for mapping in code:
            if mapping.offset <= offset < mapping.offset + mapping.end - mapping.start:
                found[offset] = mapping.start + offset - mapping.offset
                break
    return found


def _name_of(pid: int) -> str:
    with suppress(OSError):
        return printable(Path(f"/proc/{pid}/comm").read_text(errors="replace").strip())
    return "a debugger"


def _byte_at(pid: int, address: int) -> int | None:
    with suppress(OSError), Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        found = os.pread(memory.fileno(), 1, address)
        return found[0] if found else None
    return None
