"""Watches over the probes while they are on: are they still there, and who has them besides?

A debugger that removes a breakpoint of its own writes back what it found there: over a probe that
came later, or, once tracing has ended, a breakpoint that is nobody's, and kills the process. And a
child is born with its parent's breakpoints, each of which costs it a trap, although the kernel runs
no program for it. docs/safety.md has the figures.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from leaktrace.bpf.links import UprobeLinks
from leaktrace.notices import hint, tell
from leaktrace.printable import printable
from leaktrace.process.attach.keeper import Keeper
from leaktrace.process.attach.touch import touch
from leaktrace.process.attach.verify import BREAKPOINT, is_patched
from leaktrace.process.probes.plan import ObjectPlan
from leaktrace.targets.mappings import Mapping as MemoryMapping
from leaktrace.targets.memory import ProcessMemory
from leaktrace.targets.process import debugger_of

# Forks that come together are dealt with together; bpf/process/life.bpf.c tells of one in 100 ms at
# most.
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

    def add(self, plan: ObjectPlan, offsets: tuple[int, ...]) -> None:
        """Watch the probes of an object, which are on now; `offsets` in its file."""
        descriptor = plan.elf.descriptor
        if descriptor is None or plan.elf.machine != "EM_X86_64":
            return
        self._objects.append(_Watched(plan, os.dup(descriptor), offsets))

    # --- children ---------------------------------------------------------------------------

    def forked(self) -> None:
        """The process has a new thread or child: it is looked at soon."""
        if self._due_s is None and self._way is UprobeLinks.TOGETHER:
            soonest_s = time.monotonic() + _AFTER_FORK_S
            self._due_s = max(soonest_s, self._looked_s + _BETWEEN_LOOKS_S)

    def due_s(self) -> float | None:
        """When `free_children` is due, on the clock of time.monotonic(); None: it isn't."""
        return self._due_s

    def free_children(self, children: Sequence[int], mappings: Sequence[MemoryMapping]) -> None:
        """Take our breakpoints out of children that were forked with them. (Perf events drop out by
        themselves.) Raises KeeperGoneError."""
        self._due_s = None
        self._looked_s = time.monotonic()
        for one in self._objects:
            places = _addresses(one, mappings)
            # Where a child has executed something else, another byte is there, or none.
            first = dict(list(places.items())[:1])
            if any(BREAKPOINT in _bytes_at(child, first).values() for child in children):
                self._touch(one, places, mappings)

    # --- debuggers --------------------------------------------------------------------------

    def look(self, mappings: Sequence[MemoryMapping]) -> Iterator[str]:
        """Put back probes that were overwritten. What a report should say of it.

        Raises KeeperGoneError.
        """
        debugger = debugger_of(self._pid)
        for one in self._objects:
            places = _addresses(one, mappings)
            found = _bytes_at(self._pid, places)
            gone = [offset for offset, byte in found.items() if byte != BREAKPOINT]
            if gone:
                self._patched |= self._touch(one, gone, mappings) < len(gone)
                now = _bytes_at(self._pid, {offset: places[offset] for offset in gone})
                self._put_back += sum(byte == BREAKPOINT for byte in now.values())
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
        if debugger:
            yield (
                f"process {debugger} ({_name_of(debugger)}) debugs it: a breakpoint in "
                "an allocation function and a probe there overwrite each other, so set none "
                "(docs/safety.md)"
            )

    def unseen(self, mappings: Sequence[MemoryMapping]) -> Iterator[str]:
        """What a report should say of objects whose code was moved out of its file's mapping."""
        for one in self._objects:
            if not _addresses(one, mappings) and any(
                one.plan.is_mapped_as(mapping) for mapping in mappings
            ):
                yield (
                    f"the code of {one.name} lies in memory that no file backs (moved to huge "
                    "pages?): calls there can't be seen. Try --faults"
                )

    def end(self, mappings: Sequence[MemoryMapping]) -> None:
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
                for offset, byte in _bytes_at(self._pid, _addresses(one, mappings)).items()
                if byte == BREAKPOINT and os.pread(one.descriptor, 1, offset) != b"\xcc"
            ]
            if left:
                self._touch(one, left, mappings)

    def _touch(
        self, one: _Watched, offsets: Iterable[int], mappings: Sequence[MemoryMapping]
    ) -> int:
        """Have the kernel look at some places, but for those that the process has patched: it would
        write a breakpoint over the patch, and carry out the file's instruction. Returns how many.
        """
        code = one.plan.code_in(mappings)
        places: list[int] = []
        with suppress(OSError), ProcessMemory(self._pid) as memory:
            places = [
                offset for offset in offsets if not is_patched(memory, one.descriptor, code, offset)
            ]
        if places:
            touch(self._keeper, self._pid, one.open_path, places, self._way)
        return len(places)

    def close(self) -> None:
        """Watch nothing any more."""
        for one in self._objects:
            os.close(one.descriptor)
        self._objects = []


def _addresses(one: _Watched, mappings: Iterable[MemoryMapping]) -> dict[int, int]:
    """Where the process has the instructions that carry the probes, by their offsets."""
    code = one.plan.code_in(mappings)
    pairs = ((offset, m.address_of(offset)) for offset in one.offsets for m in code)
    return {offset: address for offset, address in pairs if address is not None}


def _name_of(pid: int) -> str:
    with suppress(OSError):
        return printable(Path(f"/proc/{pid}/comm").read_text(errors="surrogateescape").strip())
    return "a debugger"


def _bytes_at(pid: int, places: Mapping[int, int]) -> dict[int, int]:
    """The bytes at some addresses, by the offsets of these; without those that can't be read."""
    found = {}
    with suppress(OSError), ProcessMemory(pid) as memory:
        for offset, address in places.items():
            with suppress(OSError):
                for byte in memory.read(address, 1):
                    found[offset] = byte
    return found
