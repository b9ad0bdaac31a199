"""The spans of a Go heap: runs of pages, each with objects of one size, or a stack.

The program goes on meanwhile. Each span is read by one copy; one that makes no sense, or shares
pages with another one, was changed at that moment: it is read again, and left out if that doesn't
help. Source: runtime/mheap.go (mheap.allspans, mspan).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from leaktrace.arch.x86_64 import USER_SPACE_END
from leaktrace.runtimes.go.heap_layouts import PAGE_BYTES, SPAN_PAGES, SPAN_START, HeapLayout
from leaktrace.runtimes.go.memory import GoMemory, Words

MAX_SPANS = 1 << 24
_DEAD, _IN_USE, _MANUAL = 0, 1, 2
_CLASSES = 68 * 2  # with and without pointers
_PIECE = 1 << 16  # spans that are read at once
_TRIES = 3
_NEEDED_SHARE = 0.9  # of the spans of a heap that must make sense

Numbers = NDArray[np.int64]


@dataclass
class Spans:
    """Arrays of the same length: spans that have objects (`in_use`), or stacks and buffers."""

    address: Words
    start: Numbers
    pages: Numbers
    element_size: Numbers
    elements: Numbers  # that there is room for
    count: Numbers  # of objects
    kind: Numbers  # the size class, and whether the objects are without pointers
    state: Numbers
    free_index: Numbers
    alloc_bits: Numbers
    large_type: Numbers  # 0: not known
    skipped_count: int = field(default=0, init=False)

    @property
    def in_use(self) -> NDArray[np.bool_]:
        """Which have objects."""
        found: NDArray[np.bool_] = self.state == _IN_USE
        return found

    @property
    def manual(self) -> NDArray[np.bool_]:
        """Which have stacks, and buffers of the collector."""
        found: NDArray[np.bool_] = self.state == _MANUAL
        return found

    @property
    def is_large(self) -> NDArray[np.bool_]:
        """Which have one large object."""
        return self.kind < 2

    @property
    def has_pointers(self) -> NDArray[np.bool_]:
        """Whose objects contain pointers."""
        found: NDArray[np.bool_] = self.kind & 1 == 0
        return found

    def take(self, some: NDArray[np.bool_] | NDArray[np.intp]) -> Spans:
        """Some of the spans."""
        return Spans(**{name: getattr(self, name)[some] for name in _ARRAYS})

    def put(self, places: NDArray[np.intp], others: Spans) -> None:
        """Put others in their place."""
        for name in _ARRAYS:
            getattr(self, name)[places] = getattr(others, name)

    def unsound(self) -> NDArray[np.bool_]:
        """Which can't be as they were read."""
        unknown = (self.state < _DEAD) | (self.state > _MANUAL)
        used = self.state != _DEAD
        room = self.pages * PAGE_BYTES
        misplaced = (
            (self.start <= 0)
            | (self.start % PAGE_BYTES != 0)
            | (self.pages <= 0)
            | (self.pages > USER_SPACE_END // PAGE_BYTES)
            | (self.start > USER_SPACE_END - room)
        )
        size = self.element_size
        wrong = (
            (size <= 0)
            | (size > room)
            | (self.elements <= 0)
            | (self.elements > room // np.maximum(size, 1))
            | (self.count < 0)
            | (self.count > self.elements)
            | (self.kind >= _CLASSES)
        )
        bad: NDArray[np.bool_] = unknown | (used & misplaced) | (self.in_use & wrong)
        return bad

    def doubtful(self) -> NDArray[np.bool_]:
        """Which can't be as they were read, or share pages with another one: one of the two is not
        there any more."""
        found = self.unsound()
        used = (~found & (self.state != _DEAD)).nonzero()[0]
        order = used[np.argsort(self.start[used], kind="stable")]
        start = self.start[order]
        end = np.maximum.accumulate(start + self.pages[order] * PAGE_BYTES)
        shared = (start[1:] < end[:-1]).nonzero()[0]
        found[order[shared]] = found[order[shared + 1]] = True
        return found


_ARRAYS = tuple(one.name for one in fields(Spans) if one.name != "skipped_count")


class SpanReader:
    """Reads the spans of the heap at an address (mheap_)."""

    def __init__(self, memory: GoMemory, layout: HeapLayout, heap: int) -> None:
        self._memory, self._layout, self._heap = memory, layout, heap

    def read(self) -> Spans | None:
        """All spans in use; None where they can't be found. Raises OSError."""
        addresses = self._addresses()
        if addresses is None:
            return None
        spans = self._read(addresses)
        for _ in range(_TRIES):
            again = spans.doubtful().nonzero()[0]
            if not len(again):
                break
            spans.put(again, self._read(spans.address[again]))
        doubtful = spans.doubtful()
        found = spans.take(~doubtful & (spans.state != _DEAD))
        found.skipped_count = int(doubtful.sum())
        return found

    def are_sound(self, most: int) -> bool:
        """Whether there are spans, by the first ones. Raises OSError."""
        addresses = self._addresses()
        if addresses is None:
            return False
        spans = self._read(addresses[:most])
        sound = ~spans.unsound()
        return bool((spans.in_use & sound).any() and sound.mean() >= _NEEDED_SHARE)

    def sweep_generation(self) -> int | None:
        """Twice the number of collections. Raises OSError."""
        raw = self._memory.read(self._heap + self._layout.heap_spans - 8, 4)
        number = None if raw is None else int.from_bytes(raw, "little")
        return number if number is not None and number % 2 == 0 else None

    def _addresses(self) -> Words | None:
        at = self._heap + self._layout.heap_spans
        if self.sweep_generation() is None:
            return None
        for _ in range(_TRIES):
            header = self._memory.read(at, 24)
            if header is None:
                return None
            pointer, length, room = np.frombuffer(header, np.uint64).tolist()
            if not 0 < length <= room < MAX_SPANS or pointer % 8:
                return None
            raw = self._memory.read(pointer, 8 * length)
            # The list moves when it grows.
            if raw is not None and self._memory.read(at, 8) == header[:8]:
                return np.frombuffer(raw, np.uint64)
        return None

    def _read(self, addresses: Words) -> Spans:
        pieces = [
            self._piece(addresses[at : at + _PIECE]) for at in range(0, len(addresses), _PIECE)
        ]
        return Spans(
            **{name: np.concatenate([getattr(one, name) for one in pieces]) for name in _ARRAYS}
        )

    def _piece(self, addresses: Words) -> Spans:
        layout = self._layout
        raw, was_read = self._memory.rows(addresses, layout.span_bytes)

        def number(at: int, size: int) -> Numbers:
            values = raw[:, at : at + size].copy().view(f"<u{size}")[:, 0]
            # What doesn't fit is wrong anyway, and becomes negative.
            signed: Numbers = values.astype(np.uint64).view(np.int64)
            return signed

        state = number(layout.span_state, 1)
        state[~was_read] = -1
        large = layout.span_large_type
        return Spans(
            address=addresses,
            start=number(SPAN_START, 8),
            pages=number(SPAN_PAGES, 8),
            element_size=number(layout.span_element_size, 8),
            elements=number(layout.span_elements, layout.index_bytes),
            count=number(layout.span_alloc_count, 2),
            kind=number(layout.span_class, 1),
            state=state,
            free_index=number(layout.span_free_index, layout.index_bytes),
            alloc_bits=number(layout.span_alloc_bits, 8),
            large_type=number(large, 8) if large is not None else np.zeros(len(raw), np.int64),
        )
