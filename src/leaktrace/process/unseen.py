"""Releases of blocks that no probe saw allocated: which of them prove that allocations are missing.

A block that was allocated before the attach is released once, without a record. If its address is
released without a record again, a function that isn't hooked allocated it in between. In a command
that leaktrace started, no block is older than the trace, so the first such release is proof.

Releases that need not belong to an allocation of the program are ignored: those by the allocator
itself (the C library frees what a thread has cached when the thread ends), and those that may be
the second half of another release (`operator delete` of an allocator may jump to its free, and both
are probed). So the instruction before the return address has to call this very function, directly
or through the procedure linkage table.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leaktrace.arch.x86_64 import (
    BND,
    CALL,
    CALL_THROUGH,
    ENDBR64,
    JUMP_THROUGH,
    MAX_INSTRUCTION_BYTES,
    THROUGH_BYTES,
)
from leaktrace.model import Remark, RemarkKind
from leaktrace.process.keys import slots_of
from leaktrace.process.probes.object_plan import ObjectPlan
from leaktrace.process.probes.placement import MAX_PROLOGUE
from leaktrace.process.slot import Slot
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory import ProcessMemory

FEW = 16  # may be released without a record by chance: calls were running at the attach
# A release's probe is at most this far from the entry: so many instructions of the longest kind.
_FARTHEST_BYTES = MAX_PROLOGUE * MAX_INSTRUCTION_BYTES


class UnseenReleases:
    """The unseen releases of one process, as the kernel side noted them."""

    def __init__(self, slot: Slot, pid: int) -> None:
        self._slot = slot
        self._pid = pid
        self._hooked: list[ObjectPlan] = []
        self._last: tuple[int, Remark | None] = (0, None)  # a generation and its remark
        self._released, self._older = 0, 0.0  # up to the last report
        self._share = 1.0  # of the releases: those by the program, at the last look

    def add(self, plan: ObjectPlan) -> None:
        """An object was hooked."""
        self._hooked.append(plan)

    def look(
        self, mappings: Sequence[Mapping], generation: int, *, nothing_predates: bool, lost: int
    ) -> None:
        """Evaluate the releases so far by the image of this generation. Without mappings (the
        process has ended), the last result stays.

        `lost` allocations were seen, but have no record. `nothing_predates`: all allocations of the
        image were seen.
        """
        if mappings:
            self._last = generation, self._judge(mappings, generation, nothing_predates, lost)
            self._share = self._share_of_program(mappings, generation)

    def older(self, released: int) -> int:
        """How many blocks the program has released that may be older than the trace, of `released`
        without a record. Not those by the allocator's own library: when a thread ends, it releases
        what it has cached, blocks that the program has released before."""
        self._older += max(released - self._released, 0) * self._share
        self._released = released
        return round(self._older)

    def _share_of_program(self, mappings: Sequence[Mapping], generation: int) -> float:
        """Of the blocks that were noted last, those that the program released."""
        rows = self._noted(generation)
        if not len(rows):
            return 1.0
        allocators = self._allocators(rows, mappings)
        is_own = np.zeros(len(rows), dtype=bool)
        for one in allocators:
            is_own |= (rows["caller"] >= one.start) & (rows["caller"] < one.end)
        return 1.0 - float(is_own.mean())

    def _noted(self, generation: int) -> NDArray[np.void]:
        _, rows = self._slot.program.unseen_releases.read_all()
        is_own = slots_of(rows["key"]) == self._slot.number
        noted: NDArray[np.void] = rows[
            is_own & (rows["key"] != 0) & (rows["generation"] == generation)
        ]
        return noted

    def remark(self, generation: int) -> Remark | None:
        """The remark about the image of this generation, as of the last look."""
        last_generation, last = self._last
        return last if last_generation == generation else None

    def _judge(
        self, mappings: Sequence[Mapping], generation: int, nothing_predates: bool, lost: int
    ) -> Remark | None:
        rows = self._noted(generation)
        counts = rows["count"].astype(np.int64) - (0 if nothing_predates else 1)
        rows, counts = rows[counts > 0], counts[counts > 0]
        if counts.sum() < FEW + lost:
            return None
        count = int(counts[self._are_of_the_program(rows, mappings)].sum())
        if count < FEW + lost:
            return None
        return Remark(
            RemarkKind.UNSEEN_ALLOCATIONS,
            f"at least {count:,} blocks were released whose allocation was not seen: something "
            "allocates without calling the hooked functions, and is not in these figures",
            "try --faults, which needs no hooks; leaktrace doctor -p PID lists what is hooked",
        )

    def _allocators(self, rows: NDArray[np.void], mappings: Sequence[Mapping]) -> list[Mapping]:
        """The code of the allocators' objects, and of the dynamic loader."""
        code = [one for one in mappings if one.is_executable]
        probes = np.unique(rows["ip"])
        releasing = {
            (one.device, one.inode)
            for one in code
            if ((probes >= one.start) & (probes < one.end)).any()
        }
        return [
            one
            for one in code
            if (one.device, one.inode) in releasing
            or any(plan.is_mapped_as(one) for plan in self._hooked)
            or Path(one.path).name.startswith("ld-")
        ]

    def _are_of_the_program(
        self, rows: NDArray[np.void], mappings: Sequence[Mapping]
    ) -> NDArray[np.bool_]:
        allocators = self._allocators(rows, mappings)
        callers = {
            int(caller): _called_before(self._pid, int(caller))
            for caller in np.unique(rows["caller"])
            if not any(one.start <= caller < one.end for one in allocators)
        }
        return np.array(
            [
                (called := callers.get(int(row["caller"]))) is not None
                and 0 <= int(row["ip"]) - called <= _FARTHEST_BYTES
                for row in rows
            ],
            dtype=np.bool_,
        )


def _called_before(pid: int, address: int) -> int | None:
    """The address of the function that the instruction before `address` calls; None: unknown."""
    with (
        suppress(OSError, ValueError, struct.error),
        ProcessMemory(pid) as memory,
    ):

        def pointer_at(at: int) -> int:
            return int(struct.unpack("<Q", memory.read(at, 8))[0])

        code = memory.read(address - THROUGH_BYTES, THROUGH_BYTES)
        if code[1:2] == CALL:
            target = address + struct.unpack_from("<i", code, 2)[0]
        elif code[:2] == CALL_THROUGH:
            return pointer_at(address + struct.unpack_from("<i", code, 2)[0])
        else:
            return None
        stub = memory.read(target, 16)
        at = len(ENDBR64) if stub.startswith(ENDBR64) else 0
        at += len(BND) if stub[at:].startswith(BND) else 0
        if stub[at:].startswith(JUMP_THROUGH):
            end = target + at + THROUGH_BYTES
            return pointer_at(end + struct.unpack_from("<i", stub, at + 2)[0])
        return int(target)
    return None
