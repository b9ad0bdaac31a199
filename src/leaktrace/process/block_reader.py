"""Reads tracked blocks of one process, without stopping it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from leaktrace.abi import process as abi
from leaktrace.analysis.contents.text import texts_in
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.contents import BlockContents
from leaktrace.errors import TargetError
from leaktrace.own.closing import Closes
from leaktrace.process.block_records import BlockRecords
from leaktrace.process.member import Member
from leaktrace.process.pointer_names import PointerNames
from leaktrace.process.program import Program
from leaktrace.symbols.data_names import DataNames, Tables
from leaktrace.targets.mappings import read_mappings
from leaktrace.targets.present_memory import PresentMemory

MOST_BYTES = 256  # of a block
_PAGE_BYTES = 4096


class BlockReader(Closes):
    """The blocks of one process, as a snapshot has them. Use it as a context manager.

    The kernel side deletes the record of a block as free begins, before the allocator can use its
    memory again. So if the record is still there after the block was read, what was read is its
    content.
    """

    def __init__(
        self,
        member: Member,
        program: Program,
        snapshot: Snapshot,
        tables: Tables,
        site_id_of: Callable[[int], str | None],
        *,
        shows_pid: bool,
    ) -> None:
        """`site_id_of`: the site of a stack id. Raises TargetError where nothing can be read."""
        self._member = member
        self._traced = traced = member.traced
        self._records = program.allocations
        self._snapshot = snapshot
        self._generation = traced.slot.generation()
        self._pid = member.pid if shows_pid else None
        with ExitStack() as stack:
            self._memory = stack.enter_context(PresentMemory(member.pid))
            self._since_ns = int(traced.slot.session_now()["exec_time_ns"])
            mappings = read_mappings(member.pid)
            if not traced.process.is_alive():  # or the pid is that of another one by now
                raise ended(member.pid)
            self._names = PointerNames(
                self._memory,
                mappings,
                traced.symbolizer,
                DataNames(traced.symbolizer.views.now.regions, tables),
                _blocks_of(snapshot, member.number),
                is_there=self._is_there,
                site_id_of=site_id_of,
            )
            self._resources = stack.pop_all()

    def read(self, row: int) -> BlockContents | None:
        """The block of a row of the snapshot; None if it was freed meanwhile. Raises TargetError
        when the process has ended, or its memory must not be read."""
        address = int(self._snapshot.addresses[row])
        record = self._snapshot.records[row]
        size, time_ns = int(record["size"]), int(record["time_ns"])
        data = self._first_bytes(address, min(size, MOST_BYTES))
        if not data and size:
            self._require_memory()
        if not self._is_there(address, time_ns):
            return None
        pointers = self._names.in_block(address, data, size)
        return BlockContents(
            address=address,
            size_bytes=size,
            age_ns=max(self._snapshot.time_ns - time_ns, 0),
            data=data,
            texts=tuple(texts_in(data, address, pointers={one.offset for one in pointers})),
            pointers=pointers,
            pid=self._pid,
        )

    def _first_bytes(self, address: int, size: int) -> bytes:
        """Up to the first page that is not in memory."""
        data = b""
        while len(data) < size:
            at = address + len(data)
            part = self._memory.read(at, min(size - len(data), _PAGE_BYTES - at % _PAGE_BYTES))
            if not part:
                break
            data += part
        return data

    def _require_memory(self) -> None:
        if self._memory.was_refused:
            raise TargetError(
                f"the memory of process {self._member.pid} must not be read: that takes "
                "CAP_SYS_PTRACE"
            )
        if not self._traced.process.is_alive():
            raise ended(self._member.pid)

    def _is_there(self, address: int, time_ns: int) -> bool:
        """Whether a block is not freed yet, and the process runs the program that has made it."""
        record = self._records.lookup(self._member.number << abi.SLOT_SHIFT | address)
        if record is None or int(record["time_ns"]) != time_ns or time_ns < self._since_ns:
            return False
        return self._traced.slot.generation() == self._generation

    def close(self) -> None:
        self._resources.close()


def ended(pid: int) -> TargetError:
    """That nothing can be read any more."""
    return TargetError(f"process {pid} has ended: the contents of its blocks can't be read")


def _blocks_of(snapshot: Snapshot, slot: int) -> BlockRecords:
    is_own = np.arange(len(snapshot.records)) < len(snapshot.records) - snapshot.region_count
    if snapshot.record_slots is not None:
        is_own &= snapshot.record_slots == slot
    return BlockRecords.of(snapshot.addresses[is_own], snapshot.records[is_own])
