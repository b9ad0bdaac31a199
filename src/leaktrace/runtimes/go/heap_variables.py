"""Finds variables of the Go runtime without symbols: by the code of functions that use them, and by
what they contain. That also checks the layout (heap_layouts.py).

mheap_ is what runtime.mallocinit initializes, gcController what runtime.gcinit does, and
runtime.profilealloc reads MemProfileRate. Sources: runtime/malloc.go, runtime/mgc.go.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from leaktrace.runtimes.go.heap_layouts import (
    GC_PERCENT,
    HEAP_FREE,
    HEAP_IN_USE,
    HEAP_RELEASED,
    MEMORY_LIMIT,
    PAGE_BYTES,
    HeapLayout,
    heap_layouts,
)
from leaktrace.runtimes.go.program import GoProgram
from leaktrace.runtimes.go.spans import SpanReader

_LEA, _LOAD = 0x8D, 0x8B
_CONSTANT_BYTES = (0, 1, 4)
_MAX_PERCENT = 1_000_000
_MAX_BYTES = 1 << 47
_MAX_SPANS_CHECKED = 1000
_SLACK_BYTES = 64 << 20  # by which the heap may change between two reads
_TRIES = 3


@dataclass(frozen=True)
class HeapVariables:
    """Addresses in the process."""

    layout: HeapLayout
    heap: int  # mheap_
    controller: int  # gcController
    profile_rate: int | None  # MemProfileRate


def find_heap_variables(program: GoProgram) -> HeapVariables | None:
    """None where they aren't found, or don't contain what they should. Raises OSError."""
    for layout in heap_layouts(program.version.minor):
        heap = _find_heap(program, layout)
        controller = _find_controller(program, layout, heap) if heap is not None else None
        if heap is not None and controller is not None:
            return HeapVariables(layout, heap, controller, _find_rate(program))
    return None


def _find_heap(program: GoProgram, layout: HeapLayout) -> int | None:
    for address in _references(program, "runtime.mallocinit", _LEA):
        reader = SpanReader(program.memory, layout, address)
        if reader.are_sound(_MAX_SPANS_CHECKED):
            return address
    return None


def _find_controller(program: GoProgram, layout: HeapLayout, heap: int) -> int | None:
    """By the size of the heap, which it must know."""
    candidates = list(dict.fromkeys(_references(program, "runtime.gcinit", _LEA)))
    for _ in range(_TRIES):
        spans = SpanReader(program.memory, layout, heap).read()
        own = PAGE_BYTES * int(spans.pages[spans.in_use].sum()) if spans is not None else None
        for address in candidates:
            if own is not None and _is_controller(program, layout, address, own):
                return address
    return None


def _is_controller(program: GoProgram, layout: HeapLayout, address: int, heap_bytes: int) -> bool:
    raw = program.memory.read(address, layout.controller_total_alloc + 16)
    if raw is None:
        return False
    (percent,) = struct.unpack_from("<i", raw, GC_PERCENT)
    (limit,) = struct.unpack_from("<q", raw, MEMORY_LIMIT)
    at = layout.controller_total_alloc
    in_use, released, free, allocated, freed = (
        struct.unpack_from("<Q", raw, at + offset)[0]
        for offset in (HEAP_IN_USE, HEAP_RELEASED, HEAP_FREE, 0, 8)
    )
    return bool(
        -1 <= percent <= _MAX_PERCENT
        and limit >= 0
        and abs(in_use - heap_bytes) <= max(_SLACK_BYTES, heap_bytes // 4)
        and in_use % PAGE_BYTES == released % PAGE_BYTES == free % PAGE_BYTES == 0
        and 0 < in_use < _MAX_BYTES
        and max(released, free) < _MAX_BYTES
        and freed <= allocated
    )


def _find_rate(program: GoProgram) -> int | None:
    """The last variable that is loaded: it is the argument of the random number."""
    found = list(_references(program, "runtime.profilealloc", _LOAD))
    return found[-1] if found and found[-1] % 8 == 0 else None


def _references(program: GoProgram, function: str, opcode: int) -> Iterator[int]:
    """Addresses of data that the code of a function names relative to itself: an opcode, the byte
    that says "register and address relative to the next instruction", and the distance."""
    found = program.code_of(function)
    if found is None:
        return
    start, code = found
    spans = [span for span in program.data.values() if span.size]
    for at in range(len(code) - 5):
        if code[at] == opcode and code[at + 1] & 0xC7 == 0x05:
            (distance,) = struct.unpack_from("<i", code, at + 2)
            address = start + at + 6 + distance
            if any(span.start <= address < span.end for span in spans):
                yield address


def refers_to(program: GoProgram, function: str, address: int) -> bool:
    """Whether the code of a function names an address, by any instruction: with up to 4 bytes of a
    constant behind the distance."""
    start, code = program.code_of(function) or (0, b"")
    for at in range(len(code) - 4):
        if code[at] & 0xC7 == 0x05:
            (distance,) = struct.unpack_from("<i", code, at + 1)
            if address - start - at - 5 - distance in _CONSTANT_BYTES:
                return True
    return False
