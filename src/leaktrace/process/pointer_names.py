"""What the words of a block point to: functions, classes, variables, tracked blocks, stacks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from leaktrace.contents import Pointer, PointerKind
from leaktrace.printable import printable
from leaktrace.process.block_records import BlockRecords
from leaktrace.site import Frame
from leaktrace.symbols.class_names import ClassNames
from leaktrace.symbols.data_names import DataNames
from leaktrace.symbols.symbolizer import ProcessSymbolizer
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.present_memory import PresentMemory
from leaktrace.targets.thread_stacks import find_stacks, read_threads

_WORD_BYTES = 8
_STACK = "[stack]"
_FIRST_STACK, _OTHER_STACK = "stack of the first thread", "stack of a thread"


class PointerNames:
    """Names words of one process at one moment."""

    def __init__(
        self,
        memory: PresentMemory,
        mappings: tuple[Mapping, ...],
        symbolizer: ProcessSymbolizer,
        variables: DataNames,
        blocks: BlockRecords,
        *,
        is_there: Callable[[int, int], bool],
        site_id_of: Callable[[int], str | None],
    ) -> None:
        """`mappings` by ascending address; `blocks`: as a snapshot has them; `is_there(address,
        time_ns)`: whether that block is not freed yet; `site_id_of`: the site of a stack id."""
        self._memory = memory
        self._mappings = mappings
        self._starts = [one.start for one in mappings]
        self._symbolizer = symbolizer
        self._variables = variables
        self._blocks = blocks
        self._is_there = is_there
        self._site_id_of = site_id_of
        self._classes = ClassNames(memory.read, mappings)
        threads = read_threads(symbolizer.pid)
        self._stacks = find_stacks(mappings, threads, memory.read).starts
        self._known: dict[int, Pointer | None] = {}  # by value, with an offset of 0

    def in_block(self, address: int, data: bytes, size_bytes: int) -> tuple[Pointer, ...]:
        """The pointers in the first bytes of a block of this address and size."""
        return tuple(self._pointers(address, data, size_bytes))

    def _pointers(self, address: int, data: bytes, size_bytes: int) -> Iterator[Pointer]:
        whole = data[: len(data) - len(data) % _WORD_BYTES]
        for index, value in enumerate(np.frombuffer(whole, dtype="<u8").tolist()):
            at = index * _WORD_BYTES
            own = 0 <= value - address < size_bytes
            if value not in self._known:
                self._known[value] = self._named(value)
            known = self._known[value]
            if known is not None:
                is_own = own and known.kind is PointerKind.BLOCK
                yield replace(known, offset=at, is_own=is_own)

    def _named(self, value: int) -> Pointer | None:
        at = bisect_right(self._starts, value) - 1
        if at < 0 or value >= self._mappings[at].end:
            return None
        mapping = self._mappings[at]
        if mapping.is_executable:
            return self._to_code(value, mapping)
        if value % _WORD_BYTES == 0 and (name := self._classes.of_vtable(value)) is not None:
            return Pointer(0, value, PointerKind.CLASS, name)
        row = None if mapping.is_file else self._blocks.at(value)
        if row is not None:
            return self._to_block(value, row)
        if mapping.path == _STACK or mapping.start in self._stacks:
            name = _FIRST_STACK if mapping.path == _STACK else _OTHER_STACK
            return Pointer(0, value, PointerKind.STACK, name)
        name = self._variables.name(value)
        if name is None and mapping.is_file:
            name = _place(mapping, value)
        return None if name is None else Pointer(0, value, PointerKind.DATA, name)

    def _to_code(self, value: int, mapping: Mapping) -> Pointer | None:
        frame = self._symbolizer.symbolize(value, is_return_address=False)[-1]
        if frame.function is None and not mapping.is_file:
            return None  # data among generated code, for all that is known
        return Pointer(0, value, PointerKind.FUNCTION, _function(frame, mapping, value))

    def _to_block(self, value: int, row: int) -> Pointer | None:
        blocks = self._blocks
        address = int(blocks.addresses[row])
        # Read first: if the block is there afterwards, it was there then.
        word = self._memory.read(address, _WORD_BYTES) if address % _WORD_BYTES == 0 else b""
        if not self._is_there(address, int(blocks.times_ns[row])):
            return None
        return Pointer(
            0,
            value,
            PointerKind.BLOCK,
            self._classes.of_vtable(int.from_bytes(word, "little")) if word else None,
            self._site_id_of(int(blocks.stack_ids[row])),
            value - address,
        )


def _function(frame: Frame, mapping: Mapping, value: int) -> str:
    if frame.function is None:
        return _place(mapping, value)
    return printable(frame.function) + (f"+{frame.offset:#x}" if frame.offset else "")


def _place(mapping: Mapping, value: int) -> str:
    """Where in a file it is."""
    offset = value - mapping.start + mapping.offset
    return f"{printable(mapping.path.rpartition('/')[2])}+{offset:#x}"
