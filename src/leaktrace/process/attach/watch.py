"""Watches the probes while they are attached, and repairs what debuggers and forks do to them.

A debugger that removes its breakpoint restores the byte that it found there. So it may overwrite a
probe that was attached later. When tracing has ended, it may write a breakpoint without an owner,
which kills the process. And a forked child has copies of its parent's breakpoints, each of which
costs it a trap, although the kernel runs no program for it. docs/safety.md has the figures.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from leaktrace.arch.machines import is_decoded
from leaktrace.arch.x86_64 import INT3
from leaktrace.bpf.links import UprobeLinks
from leaktrace.notices import hint, notify
from leaktrace.printable import printable
from leaktrace.process.attach.keeper import Keeper
from leaktrace.process.attach.patched_code import is_patched
from leaktrace.process.attach.repair import repair_breakpoints
from leaktrace.process.probes.object_plan import ObjectPlan
from leaktrace.targets.mappings import Mapping as MemoryMapping
from leaktrace.targets.memory import ProcessMemory
from leaktrace.targets.process import debugger_of

# Forks in a row are handled together; bpf/process/exec_fork_exit.bpf.c reports at most one per
# 100 ms.
_AFTER_FORK_S = 0.2
_BETWEEN_FORK_CHECKS_S = 1.0


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

    def __init__(self, pid: int, keeper: Keeper, links: UprobeLinks) -> None:
        self._pid = pid
        self._keeper = keeper
        self._links = links
        self._objects: list[_Watched] = []
        self._due_s: float | None = None
        self._checked_s = float("-inf")
        self._restored = 0
        self._patched = False

    def add(self, plan: ObjectPlan, offsets: tuple[int, ...]) -> None:
        """Watch the probes of an object, which are attached at these offsets of its file."""
        descriptor = plan.elf.descriptor
        if descriptor is None or not is_decoded(plan.elf.machine):
            return
        self._objects.append(_Watched(plan, os.dup(descriptor), offsets))

    # --- children ---------------------------------------------------------------------------

    def forked(self) -> None:
        """The process has a new thread or child: make `repair_children` due soon."""
        if self._due_s is None and self._links is UprobeLinks.TOGETHER:
            soonest_s = time.monotonic() + _AFTER_FORK_S
            self._due_s = max(soonest_s, self._checked_s + _BETWEEN_FORK_CHECKS_S)

    def due_s(self) -> float | None:
        """When `repair_children` is due, on the clock of time.monotonic(); None if it isn't."""
        return self._due_s

    def repair_children(self, children: Sequence[int], mappings: Sequence[MemoryMapping]) -> None:
        """Remove our breakpoints from children that were forked with them. (The kernel removes
        those of perf events on its own.) Raises KeeperGoneError."""
        self._due_s = None
        self._checked_s = time.monotonic()
        for one in self._objects:
            places = _addresses(one, mappings)
            # In a child that has executed another program, another byte is there, or none.
            first = dict(list(places.items())[:1])
            if any(INT3 in _bytes_at(child, first).values() for child in children):
                self._repair(one, places, mappings)

    # --- debuggers --------------------------------------------------------------------------

    def restore(self, mappings: Sequence[MemoryMapping]) -> Iterator[str]:
        """Restore probes that were overwritten. Yields notes about them for a report.

        Raises KeeperGoneError.
        """
        debugger = debugger_of(self._pid)
        for one in self._objects:
            places = _addresses(one, mappings)
            found = _bytes_at(self._pid, places)
            gone = [offset for offset, byte in found.items() if byte != INT3]
            if gone:
                self._patched |= self._repair(one, gone, mappings) < len(gone)
                now = _bytes_at(self._pid, {offset: places[offset] for offset in gone})
                self._restored += sum(byte == INT3 for byte in now.values())
        if self._restored:
            yield (
                f"{self._restored} of its probes had been overwritten, most likely by a debugger, "
                "and were restored: calls made in between are missing"
            )
        if self._patched:
            yield (
                "it has patched its own code where probes were: they were not restored, and calls "
                "that go through its patch are missing"
            )
        if debugger:
            yield (
                f"process {debugger} ({_name_of(debugger)}) debugs it: set no breakpoints in "
                "allocation functions, because they and the probes there overwrite each other "
                "(docs/safety.md)"
            )

    def unseen(self, mappings: Sequence[MemoryMapping]) -> Iterator[str]:
        """Notes for a report about objects whose code was moved out of the file's mapping."""
        for one in self._objects:
            if not _addresses(one, mappings) and any(
                one.plan.is_mapped_as(mapping) for mapping in mappings
            ):
                yield (
                    f"the code of {one.name} is in memory that no file backs (moved to huge "
                    "pages?): calls there can't be seen. Try --faults"
                )

    def end(self, mappings: Sequence[MemoryMapping]) -> None:
        """Remove breakpoints that a debugger has left where the probes were. Call it when they are
        removed.

        Raises KeeperGoneError.
        """
        debugger = debugger_of(self._pid)
        if debugger:
            notify(
                f"{_name_of(debugger)} (process {debugger}) still debugs process {self._pid}: if "
                "it set a breakpoint in an allocation function during tracing, removing it may "
                "leave a breakpoint instruction behind, which kills the process when executed"
            )
            hint(
                f"when {_name_of(debugger)} has detached, run leaktrace -p {self._pid} again: "
                "it removes leftover breakpoints"
            )
            return
        for one in self._objects:
            left = [
                offset
                for offset, byte in _bytes_at(self._pid, _addresses(one, mappings)).items()
                if byte == INT3 and os.pread(one.descriptor, 1, offset) != bytes([INT3])
            ]
            if left:
                self._repair(one, left, mappings)

    def _repair(
        self, one: _Watched, offsets: Iterable[int], mappings: Sequence[MemoryMapping]
    ) -> int:
        """Repair breakpoints, except where the process has patched its code: the kernel would write
        a breakpoint over the patch, and execute the file's instruction. Returns how many were
        repaired."""
        code = one.plan.code_in(mappings)
        places: list[int] = []
        with suppress(OSError), ProcessMemory(self._pid) as memory:
            places = [
                offset for offset in offsets if not is_patched(memory, one.descriptor, code, offset)
            ]
        if places:
            repair_breakpoints(self._keeper, self._pid, one.open_path, places, self._links)
        return len(places)

    def close(self) -> None:
        """Stop watching."""
        for one in self._objects:
            os.close(one.descriptor)
        self._objects = []


def _addresses(one: _Watched, mappings: Iterable[MemoryMapping]) -> dict[int, int]:
    """The addresses of the probes in the process, by their offsets in the file."""
    code = one.plan.code_in(mappings)
    pairs = ((offset, m.address_of(offset)) for offset in one.offsets for m in code)
    return {offset: address for offset, address in pairs if address is not None}


def _name_of(pid: int) -> str:
    with suppress(OSError):
        return printable(Path(f"/proc/{pid}/comm").read_text(errors="surrogateescape").strip())
    return "a debugger"


def _bytes_at(pid: int, places: Mapping[int, int]) -> dict[int, int]:
    """The bytes at addresses, by offset; bytes that can't be read are missing."""
    found = {}
    with suppress(OSError), ProcessMemory(pid) as memory:
        for offset, address in places.items():
            with suppress(OSError):
                for byte in memory.read(address, 1):
                    found[offset] = byte
    return found
