"""Where the Go runtime's structs of the heap have their members, by version: offsets in bytes.

They were read from the DWARF of programs of each version but 1.18 and 1.20, whose heap is looked at
with the rows of their neighbours. heap_variables.py checks what is read. Sources: runtime/mheap.go
(mheap, mspan), runtime/mgcpacer.go (gcControllerState), runtime/mprof.go (bucket, memRecord),
internal/abi/type.go (Type).
"""

from __future__ import annotations

from dataclasses import dataclass

PAGE_BYTES = 8192  # of Go's heap
SPAN_START, SPAN_PAGES = 24, 32  # the same in all versions
GC_PERCENT, MEMORY_LIMIT = 0, 8
HEAP_MARKED = 48  # behind heapLive
# Before totalAlloc: heapInUse, heapReleased, heapFree; behind it: totalFree, mappedReady.
HEAP_IN_USE, HEAP_RELEASED, HEAP_FREE, TOTAL_FREE = -24, -16, -8, 8

BUCKET_NEXT, BUCKET_KIND, BUCKET_HASH, BUCKET_SIZE = 8, 16, 24, 32
BUCKET_DEPTH, BUCKET_STACK = 40, 48
MEMORY_KIND = 1  # memProfile


@dataclass(frozen=True)
class HeapLayout:
    """Of Go 1.`minor` and later, up to the next row."""

    minor: int
    heap_spans: int  # mheap.allspans; sweepgen is 8 bytes before
    span_free_index: int
    span_elements: int  # nelems
    index_bytes: int  # size of the last two
    span_alloc_bits: int
    span_alloc_count: int
    span_class: int
    span_state: int
    span_element_size: int
    span_large_type: int | None
    controller_live: int
    controller_total_alloc: int
    record_bytes: int  # memRecordCycle

    @property
    def span_bytes(self) -> int:
        """What is read of a span."""
        return max(self.span_element_size, self.span_large_type or 0) + 8


_LAYOUTS = (
    HeapLayout(19, 65856, 48, 56, 8, 72, 96, 98, 99, 104, None, 136, 328, 32),
    HeapLayout(21, 65864, 48, 56, 8, 72, 104, 106, 107, 112, None, 104, 296, 32),
    HeapLayout(22, 65864, 48, 50, 2, 64, 96, 98, 99, 104, 152, 104, 296, 32),
    HeapLayout(27, 65864, 48, 50, 2, 64, 96, 98, 99, 104, 152, 104, 296, 16),
)


def heap_layouts(minor: int | None) -> tuple[HeapLayout, ...]:
    """The layout of Go 1.`minor`, then the others that it may have if it isn't known exactly."""
    at = max(
        (i for i, one in enumerate(_LAYOUTS) if minor is None or one.minor <= minor), default=0
    )
    if minor is not None and (minor in (18, 20) or minor < _LAYOUTS[0].minor):
        return (_LAYOUTS[at], *_LAYOUTS[at + 1 : at + 2])
    return (_LAYOUTS[at],)
