"""The heap of a running Go program: what the collector is set to, and objects by size and type.

Everything is read from outside, while the program goes on. Source: runtime/mgcpacer.go
(gcControllerState), runtime/mstats.go (MemStats, how its figures are made).
"""

from __future__ import annotations

import struct
import time

import numpy as np

from leaktrace.errors import TargetError
from leaktrace.go_report import Collector, HeapLook, SeenObjects, SizeKey
from leaktrace.printable import printable
from leaktrace.runtimes.go.heap_layouts import (
    GC_PERCENT,
    HEAP_FREE,
    HEAP_IN_USE,
    HEAP_MARKED,
    HEAP_RELEASED,
    MEMORY_LIMIT,
    PAGE_BYTES,
)
from leaktrace.runtimes.go.heap_profile import HeapProfile
from leaktrace.runtimes.go.heap_types import TypeReader
from leaktrace.runtimes.go.heap_variables import find_heap_variables
from leaktrace.runtimes.go.program import GoProgram
from leaktrace.runtimes.go.spans import SpanReader, Spans
from leaktrace.targets.memory_use import read_memory

_NO_LIMIT = (1 << 63) - 1


class HeapUnknownError(TargetError):
    """The heap isn't where it should be, or is not as it should be."""


class Heap:
    """Looks at the heap of a program."""

    def __init__(self, program: GoProgram) -> None:
        """Raises HeapUnknownError where the heap isn't found, and OSError as `GoMemory`."""
        found = find_heap_variables(program)
        if found is None:
            raise HeapUnknownError(
                f"the heap of process {program.pid} ({printable(program.version.text)}) can't be "
                "found",
                "this version of Go is not known to leaktrace, or the program has just started",
            )
        self._program, self.variables = program, found
        self._reader = SpanReader(program.memory, found.layout, found.heap)
        has_types = found.layout.span_large_type is not None and program.types.size > 0
        self.profile = HeapProfile(program, found, self._reader)
        self._types = TypeReader(program) if has_types else None

    @property
    def version(self) -> str:
        """Of Go, as the program says it."""
        return self._program.version.text

    @property
    def is_known_version(self) -> bool:
        """Whether its layout is known, and not only tried."""
        return self._program.is_known_version

    def look(self) -> HeapLook:
        """Raises OSError as `GoMemory`, and HeapUnknownError where the heap can't be read."""
        began_s = time.monotonic()
        before = self._controller()
        generation = self._reader.sweep_generation()
        spans = self._reader.read()
        after = self._controller()
        if before is None or after is None or spans is None or generation is None:
            raise HeapUnknownError(
                f"the heap of process {self._program.pid} can't be read any more",
                "the process may have executed another program: try again",
            )
        used, manual = spans.in_use, spans.manual
        spans_bytes = PAGE_BYTES * int(spans.pages[used].sum())
        low, high = sorted((before.spans_bytes, after.spans_bytes))
        profile = self.profile.look()
        memory = read_memory(self._program.pid)
        return HeapLook(
            time_s=began_s,
            took_s=time.monotonic() - began_s,
            collector=Collector(
                percent=after.percent,
                memory_limit_bytes=None if after.limit == _NO_LIMIT else after.limit,
                collections=generation // 2,
                live_bytes=after.marked_bytes if generation else 0,
            ),
            in_use_bytes=int((spans.count * spans.element_size)[used].sum()),
            object_count=int(spans.count[used].sum()),
            spans_bytes=spans_bytes,
            idle_bytes=after.free_bytes,
            released_bytes=after.released_bytes,
            stacks_bytes=PAGE_BYTES * int(spans.pages[manual].sum()),
            allocated_bytes=after.allocated_bytes,
            resident_bytes=None if memory is None else memory.resident.total,
            sizes=_by_size(spans),
            types=None if self._types is None else self._types.look(spans),
            skipped_span_count=spans.skipped_count,
            moved_bytes=max(low - spans_bytes, spans_bytes - high, high - low, 0),
            profile=profile,
            profile_problem="" if profile is not None else self._no_profile(),
        )

    def _no_profile(self) -> str:
        if self.variables.profile_rate is None:
            return "not known: runtime.MemProfileRate was not found"
        if self.profile.is_linked:
            return (
                "not known: the program has switched its profile off (runtime.MemProfileRate is 0)"
            )
        return (
            "not known: nothing in the program reads the profile of the Go runtime (such as "
            "net/http/pprof), so it was built with the profile switched off; "
            "--go-sample-refills samples where it allocates (by eBPF, as root); "
            "--go-enable-profile switches the profile on, which writes one word to the process"
        )

    def _controller(self) -> _Controller | None:
        layout = self.variables.layout
        at = layout.controller_total_alloc
        raw = self._program.memory.read(self.variables.controller, at + 8)
        return None if raw is None else _Controller(raw, layout.controller_live, at)


class _Controller:
    """Members of gcController."""

    def __init__(self, raw: bytes, live_at: int, total_at: int) -> None:
        def number(at: int) -> int:
            return int(struct.unpack_from("<Q", raw, at)[0])

        self.percent = int(struct.unpack_from("<i", raw, GC_PERCENT)[0])
        self.limit = number(MEMORY_LIMIT)
        self.marked_bytes = number(live_at + HEAP_MARKED)
        self.spans_bytes = number(total_at + HEAP_IN_USE)
        self.released_bytes = number(total_at + HEAP_RELEASED)
        self.free_bytes = number(total_at + HEAP_FREE)
        self.allocated_bytes = number(total_at)


def _by_size(spans: Spans) -> dict[SizeKey, SeenObjects]:
    used = spans.take(spans.in_use & (spans.count > 0))
    keys = np.stack((used.element_size, used.has_pointers, used.is_large), 1)
    found, inverse = np.unique(keys, axis=0, return_inverse=True)
    counts = np.bincount(inverse.ravel(), weights=used.count, minlength=len(found))
    return {
        SizeKey(size, bool(pointers), bool(large)): SeenObjects(int(count), int(count) * size)
        for (size, pointers, large), count in zip(found.tolist(), counts.tolist(), strict=True)
    }
