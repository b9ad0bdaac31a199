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
from leaktrace.target.mappings import Mapping
from leaktrace.target.process import debugger_of

_BREAKPOINT = 0xCC  # int3
# Forks that come together are dealt with together; bpf/life.bpf.c tells of one in 100 ms at most.
_AFTER_FORK_S = 0.2
_BETWEEN_LOOKS_S = 1.0


@dataclass(frozen=True)
class _Watched:
    """The probes of one object; its file is held open."""

    name: str
    path: str
    descriptor: int
    offsets: tuple[int, ...]

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
        self.debugger = 0  # who held the process when it was last looked at

    def add(self, plan: ObjectPlan) -> None:
        """Watch an object that was hooked."""
        descriptor = plan.elf.descriptor
        if descriptor is None or plan.elf.machine != "EM_X86_64":
            return
        offsets = {probe.offset for probe in plan.probes}
        offsets |= {probe.offset for one in plan.followed for probe in one.probes}
        self._objects.append(
            _Watched(plan.name, plan.path, os.dup(descriptor), tuple(sorted(offsets)))
        )

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
            if places and any(_byte_at(child, places[0]) == _BREAKPOINT for child in children):
                touch(self._keeper, self._pid, one.open_path, one.offsets, self._way)

    # --- debuggers --------------------------------------------------------------------------

    def look(self, mappings: Sequence[Mapping]) -> Iterator[str]:
        """Put back probes that were overwritten. What a report should say of it.

        Raises KeeperGoneError.
        """
        self.debugger = debugger_of(self._pid)
        for one in self._objects:
            gone = sum(
                byte is not None and byte != _BREAKPOINT
                for byte in (_byte_at(self._pid, at) for at in _addresses(one, mappings))
            )
            if gone:
                touch(self._keeper, self._pid, one.open_path, one.offsets, self._way)
                self._put_back += gone
        if self._put_back:
            yield (
                f"{self._put_back} of its probes had been overwritten, most likely by a debugger, "
                "and were put back: calls in between are missing"
            )
        if self.debugger:
            yield (
                f"process {self.debugger} debugs it: where its breakpoints and the probes meet, "
                "one overwrites the other"
            )

    def unseen(self, mappings: Sequence[Mapping]) -> Iterator[str]:
        """What a report should say of objects whose code was moved out of its file's mapping."""
        for one in self._objects:
            if not _addresses(one, mappings) and any(m.path == one.path for m in mappings):
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
                f"process {debugger} debugs process {self._pid}: when it removes a breakpoint that "
                "it set meanwhile, it may leave one there that ends the process"
            )
            hint(f"when it has gone, run leaktrace -p {self._pid} once more: that removes it")
            return
        for one in self._objects:
            places = _addresses(one, mappings)
            left = [
                offset
                for offset, at in zip(one.offsets, places, strict=False)
                if len(places) == len(one.offsets)
                and _byte_at(self._pid, at) == _BREAKPOINT != os.pread(one.descriptor, 1, offset)[0]
            ]
            if left:
                touch(self._keeper, self._pid, one.open_path, left, self._way)

    def close(self) -> None:
        """Watch nothing any more."""
        for one in self._objects:
            os.close(one.descriptor)
        self._objects = []


def _addresses(one: _Watched, mappings: Iterable[Mapping]) -> list[int]:
    """Where the process has the instructions that carry the probes, by ascending offset."""
    found = []
    code = [m for m in mappings if m.is_executable and m.is_file and m.path == one.path]
    for offset in one.offsets:
        for mapping in code:
            if mapping.offset <= offset < mapping.offset + mapping.end - mapping.start:
                found.append(mapping.start + offset - mapping.offset)
                break
    return found


def _byte_at(pid: int, address: int) -> int | None:
    with suppress(OSError), Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        found = os.pread(memory.fileno(), 1, address)
        return found[0] if found else None
    return None
