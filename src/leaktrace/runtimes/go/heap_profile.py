"""The profile of the heap that the Go runtime itself keeps: one allocation in 512 KiB with its
stack, and whether it was freed since. It is what net/http/pprof shows.

A record belongs to one stack and one size of objects. It has four counts: those that are published,
and those of the collection that runs now and the next two. Only what a whole collection has seen is
published, so that what has been allocated since doesn't look like a leak. Sources: runtime/mprof.go
(bucket, memRecord, stkbucket, MemProfile), runtime/pprof/protomem.go (scaleHeapSample).
"""

from __future__ import annotations

import math
import struct
import time
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.go_report import ProfileKey, ProfileLook, SeenSite, SizedObjects
from leaktrace.runtimes.go.heap_layouts import (
    BUCKET_DEPTH,
    BUCKET_HASH,
    BUCKET_KIND,
    BUCKET_NEXT,
    BUCKET_SIZE,
    BUCKET_STACK,
    MEMORY_KIND,
)
from leaktrace.runtimes.go.heap_variables import HeapVariables, refers_to
from leaktrace.runtimes.go.memory import Words
from leaktrace.runtimes.go.program import GoProgram, Span
from leaktrace.runtimes.go.spans import SpanReader

DEFAULT_RATE = 512 << 10
_MAX_RATE = 1 << 40
_MAX_DEPTH = 1024
_USUAL_DEPTH = 32
_MAX_RECORDS = 1 << 18
_MAX_COUNT = 1 << 48
_MAX_SIZE = 1 << 47
_COUNTS = 4  # published, and of three collections
_PIECE_BYTES, _MAX_DATA_BYTES = 16 << 20, 1 << 30
_LOWEST = 1 << 12
_TRIES = 3
_MAX_CANDIDATES = 4096  # of a piece of the data, for runtime.mbuckets
_ROWS = 1 << 16
# After a search that found nothing, the next one waits this many times as long as it took: not long
# at first, because what was just switched on has soon recorded something.
_FEWEST_TIMES, _MOST_TIMES, _MAX_WAIT_S = 1, 20, 60.0
_MASK = (1 << 64) - 1
_RUNTIME = ("runtime.", "internal/runtime/")
# The linker switches the profile off in a program that contains none of these.
_READERS = ("runtime.MemProfile", "runtime.memProfileInternal", "runtime.pprof_memProfileInternal")


@dataclass(frozen=True)
class ProfileRecord:
    """Objects of one size, allocated with one stack: as the profile counts them, not scaled up."""

    size_bytes: int
    stack: tuple[int, ...]
    allocated: int
    freed: int


@dataclass(frozen=True)
class _Bucket:
    size_bytes: int
    stack: tuple[int, ...]
    counts_at: int


class HeapProfile:
    """Reads the profile of a program."""

    def __init__(self, program: GoProgram, variables: HeapVariables, reader: SpanReader) -> None:
        self._program, self._variables, self._reader = program, variables, reader
        # Variables that point to a record. One is runtime.mbuckets; the others may be any that do
        # so for a while, such as the end of a chunk of another allocator.
        self._heads: list[int] = []
        self._buckets: dict[int, _Bucket] = {}  # by address; they are never freed
        self._gaps: dict[int, None] = {}  # where the list goes on that could not be followed
        self._collections: int | None = None  # when runtime.mbuckets was not found
        self._next_search_s, self._times = 0.0, _FEWEST_TIMES
        self._is_cut = False  # not everything was searched

    @property
    def is_linked(self) -> bool:
        """Whether the program can read its own profile. If not, the linker has switched it off."""
        return any(self._program.function_start(name) is not None for name in _READERS)

    def rate_bytes(self) -> int | None:
        """runtime.MemProfileRate; None where it isn't found. Raises OSError."""
        at = self._variables.profile_rate
        rate = None if at is None else self._program.memory.word(at)
        return rate if rate is not None and rate <= _MAX_RATE else None

    def writable_rate(self) -> int | None:
        """Where the rate is; None unless it is certain. Raises OSError."""
        at = self._variables.profile_rate
        # It is found in one function, and this one reads it, too, for each new processor.
        is_certain = at is not None and refers_to(self._program, "runtime.allocmcache", at)
        return at if is_certain else None

    def look(self, scale_rate_bytes: int | None = None) -> ProfileLook | None:
        """The profile; None if it is switched off. `scale_rate_bytes`: the rate that the records
        were made with, if that isn't the present one. Raises OSError."""
        rate = scale_rate_bytes or self.rate_bytes()
        if rate == 0:
            return None
        records, skipped_count = self.records()
        if rate is None:
            if not records:
                return None
            rate = DEFAULT_RATE
        sites: defaultdict[ProfileKey, list[SizedObjects]] = defaultdict(list)
        for record in records:
            key = ProfileKey(self._without_runtime(record.stack))
            sites[key].append(_scaled(record, rate))
        return ProfileLook(
            rate_bytes=rate,
            sites={key: _sum(sizes) for key, sizes in sites.items()},
            record_count=len(records),
            skipped_count=skipped_count,
        )

    def _without_runtime(self, stack: tuple[int, ...]) -> tuple[int, ...]:
        """Without the functions of the runtime that allocate, as pprof shows it; all of the stack
        if it has no others."""
        for index, address in enumerate(stack):
            lines = self._program.lines(address)
            if not lines or not lines[0].function.startswith(_RUNTIME):
                return stack[index:]
        return stack

    def records(self) -> tuple[list[ProfileRecord], int]:
        """What runtime.MemProfile would publish now, and how many records could not be read. Raises
        OSError."""
        skipped = self._follow()
        buckets = list(self._buckets.values())
        if not buckets:
            return [], skipped
        counts, trusted = self._counts(buckets)
        records = []
        for bucket, (allocated, freed), is_trusted in zip(
            buckets, counts.tolist(), trusted.tolist(), strict=True
        ):
            if not is_trusted or max(allocated, freed) > _MAX_COUNT:
                skipped += 1
            elif allocated:
                records.append(ProfileRecord(bucket.size_bytes, bucket.stack, allocated, freed))
        return records, skipped

    def _counts(self, buckets: list[_Bucket]) -> tuple[Words, NDArray[np.bool_]]:
        """How many objects were allocated and freed, n x 2. Published counts change only when a
        collection ends: where two reads differ, they are read again."""
        at = np.array([one.counts_at for one in buckets], np.uint64)
        size = self._variables.layout.record_bytes
        before: tuple[int | None, Words] | None = None
        for _ in range(1 + _TRIES):
            generation = self._reader.sweep_generation()
            raw, was_read = self._program.memory.rows(at, _COUNTS * size)
            words = raw.view(np.uint64).reshape(len(at), _COUNTS, size // 8)[:, :, :2]
            now = words[:, 0] + words[:, 1 + (generation or 0) // 2 % 3]
            if not now.any():  # nothing was collected yet
                now = words.sum(axis=1, dtype=np.uint64)
                return now, was_read
            same = was_read.copy()
            if before is not None:
                same &= (now == before[1]).all(axis=1)
                if generation == before[0] and same.all():
                    break
            before = generation, now
        return now, same

    def _follow(self) -> int:
        """Read the buckets that are new: the newest one is the first in the list. Then go on where
        an earlier look had to stop. Returns in how many places the list can't be followed."""
        newest = self._newest()
        if not newest:
            self._search()
            newest = self._newest()
        for address in (*newest, *self._gaps):
            self._follow_from(address)
        is_lost = not newest and (self._is_cut or bool(self._buckets))
        return len(self._gaps) + is_lost

    def _newest(self) -> set[int]:
        """The records that the variables point to. runtime.mbuckets never points elsewhere: what
        does is forgotten."""
        words = {at: self._program.memory.word(at) or 0 for at in self._heads}
        records = {address for address in words.values() if self._is_bucket(address)}
        self._heads = [at for at, address in words.items() if address in records]
        return records

    def _is_bucket(self, address: int) -> bool:
        return address in self._buckets or self._bucket(address) is not None

    def _follow_from(self, address: int) -> None:
        self._gaps.pop(address, None)
        while address and address not in self._buckets:
            found = self._bucket(address) if len(self._buckets) < _MAX_RECORDS else None
            if found is None:
                if len(self._buckets) < _MAX_RECORDS or not self._gaps:
                    self._gaps[address] = None
                return
            self._buckets[address], address = found

    def _search(self) -> None:
        """Find runtime.mbuckets. It is there once something was recorded: until then, not every
        look searches for it."""
        collections, began_s = self._reader.sweep_generation(), time.monotonic()
        if collections == self._collections and began_s < self._next_search_s:
            return
        self._collections = collections
        self._heads = self._find_heads()
        took_s = time.monotonic() - began_s
        self._next_search_s = began_s + min(took_s * self._times, _MAX_WAIT_S)
        self._times = _FEWEST_TIMES if self._heads else min(2 * self._times, _MOST_TIMES)

    def _bucket(self, address: int) -> tuple[_Bucket, int] | None:
        """A bucket, and the address of the next one."""
        raw = self._program.memory.read(address, BUCKET_STACK + 8 * _USUAL_DEPTH)
        if raw is None:  # at the end of a mapping
            raw = self._program.memory.read(address, BUCKET_STACK + 8) or b""
        if len(raw) < BUCKET_STACK + 8 or not _may_be_bucket(raw, self._program.text):
            return None
        (depth,) = struct.unpack_from("<Q", raw, BUCKET_DEPTH)
        if BUCKET_STACK + 8 * depth > len(raw):
            raw = self._program.memory.read(address, BUCKET_STACK + 8 * depth) or b""
        if BUCKET_STACK + 8 * depth > len(raw):
            return None
        stack = struct.unpack_from(f"<{depth}Q", raw, BUCKET_STACK)
        (size,) = struct.unpack_from("<Q", raw, BUCKET_SIZE)
        if _hash(stack, size) != struct.unpack_from("<Q", raw, BUCKET_HASH)[0]:
            return None
        (following,) = struct.unpack_from("<Q", raw, BUCKET_NEXT)
        return _Bucket(size, stack, address + BUCKET_STACK + 8 * depth), following

    def _find_heads(self) -> list[int]:
        """The variables that point to a record of the profile."""
        self._is_cut = False
        found: list[int] = []
        for name in ("noptrbss", "bss", "noptrdata", "data"):
            span = self._program.data[name]
            end = min(span.end, span.start + _MAX_DATA_BYTES) & ~7
            for at in range(span.start + 7 & ~7, end, _PIECE_BYTES):
                raw = self._program.memory.read(at, min(_PIECE_BYTES, end - at))
                words = np.frombuffer(raw or b"", np.uint64)
                records = [one for one in self._candidates(words) if self._is_bucket(one)]
                is_found = np.isin(words, np.array(records, np.uint64))
                found += (at + 8 * np.flatnonzero(is_found)).tolist()
        return found

    def _candidates(self, words: Words) -> list[int]:
        """Those of the words that may point to a bucket."""
        pointers = np.unique(words)
        likely = (pointers >= _LOWEST) & (pointers < _MAX_SIZE) & (pointers % 8 == 0)
        pointers = pointers[likely]
        found: list[int] = []
        for first in range(0, len(pointers), _ROWS):
            some = pointers[first : first + _ROWS]
            heads, was_read = self._program.memory.rows(some, BUCKET_STACK + 8)
            good = was_read & _may_be_buckets(heads.view(np.uint64), self._program.text)
            found += some[good].tolist()
            if len(found) > _MAX_CANDIDATES:
                self._is_cut = True
                return found[:_MAX_CANDIDATES]
        return found


def _may_be_buckets(numbers: Words, text: Span) -> NDArray[np.bool_]:
    """As `_may_be_bucket`, of many: n x 7 words."""
    size, depth = numbers[:, BUCKET_SIZE // 8], numbers[:, BUCKET_DEPTH // 8]
    first = numbers[:, BUCKET_STACK // 8]
    good: NDArray[np.bool_] = (
        (numbers[:, BUCKET_KIND // 8] == MEMORY_KIND)
        & (size > 0)
        & (size < _MAX_SIZE)
        & (depth > 0)
        & (depth <= _MAX_DEPTH)
        & (first >= text.start)
        & (first <= text.end)
    )
    return good


def _may_be_bucket(raw: bytes, text: Span) -> bool:
    kind, size, depth, first = (
        struct.unpack_from("<Q", raw, at)[0]
        for at in (BUCKET_KIND, BUCKET_SIZE, BUCKET_DEPTH, BUCKET_STACK)
    )
    return bool(
        kind == MEMORY_KIND
        and 0 < size < _MAX_SIZE
        and 0 < depth <= _MAX_DEPTH
        and text.start <= first <= text.end
    )


def _hash(stack: tuple[int, ...], size: int) -> int:
    """As stkbucket computes it: what isn't a bucket hardly has the right one."""
    number = 0
    for word in (*stack, size):
        number = number + word & _MASK
        number = number + (number << 10) & _MASK
        number ^= number >> 6
    number = number + (number << 3) & _MASK
    return number ^ number >> 11


def _scaled(record: ProfileRecord, rate: int) -> SizedObjects:
    """An object of this size is recorded with a known probability. The arithmetic is Go's own
    (scaleHeapSample): figures are the same to the last object."""
    factor = 1.0
    if rate > 1:
        factor = 1 / (1 - math.exp(-record.size_bytes / rate))
    in_use = max(record.allocated - record.freed, 0)
    return SizedObjects(
        size_bytes=record.size_bytes,
        in_use_count=int(in_use * factor),
        in_use_bytes=int(in_use * record.size_bytes * factor),
        allocated_count=int(record.allocated * factor),
        allocated_bytes=int(record.allocated * record.size_bytes * factor),
    )


def _sum(sizes: list[SizedObjects]) -> SeenSite:
    return SeenSite(
        sum(one.in_use_count for one in sizes),
        sum(one.in_use_bytes for one in sizes),
        sum(one.allocated_count for one in sizes),
        sum(one.allocated_bytes for one in sizes),
        tuple(sizes),
    )
