"""The types of objects in a Go heap: those of more than 512 bytes that contain pointers begin with
the address of their type, or their span has it. Since Go 1.22; smaller ones have no type.

Sources: runtime/mbitmap.go (heapBitsInSpan, the malloc header), runtime/mheap.go (mspan.largeType,
allocBits), internal/abi/type.go (Type, Name).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from leaktrace.go_report import SeenObjects, TypeKey, TypesLook
from leaktrace.runtimes.go.memory import Words
from leaktrace.runtimes.go.program import GoProgram
from leaktrace.runtimes.go.spans import Numbers, Spans

_LARGEST_WITHOUT = 512
_MOST_ELEMENTS = 128  # of a span whose objects have types
_MOST_OBJECTS = 1 << 20  # that are looked at
_MOST_TYPES = 1 << 16
_TYPE_BYTES, _FLAGS_AT, _NAME_AT = 48, 20, 40
_EXTRA_STAR = 2
_MOST_NAME_BYTES = 512
_CACHED = 1 << 18


@dataclass
class _Sum:
    count: int = 0
    size_bytes: int = 0

    def seen(self) -> SeenObjects:
        return SeenObjects(self.count, self.size_bytes)


@dataclass
class TypeReader:
    """Names the types of a program's objects."""

    program: GoProgram
    _known: dict[int, TypeKey | None] = field(default_factory=dict)

    def look(self, spans: Spans) -> TypesLook:
        """The types of the objects in some spans. Raises OSError."""
        typed = spans.in_use & spans.has_pointers & (spans.element_size > _LARGEST_WITHOUT)
        large = spans.take(typed & spans.is_large)
        types, sizes = [large.large_type.view(np.uint64)], [large.element_size]
        small = spans.take(typed & ~spans.is_large & (spans.elements <= _MOST_ELEMENTS))
        objects, object_sizes = self._objects(small)
        total = len(objects)
        # Of too many, every second or third one and so on, all over the heap.
        step = -(-total // _MOST_OBJECTS) or 1
        objects, object_sizes = objects[::step], object_sizes[::step]
        first, was_read = self.program.memory.words(objects)
        types.append(np.where(was_read, first, np.uint64(0)))
        sizes.append(object_sizes)
        return self._sums(np.concatenate(types), np.concatenate(sizes), total - len(objects))

    def _objects(self, spans: Spans) -> tuple[Words, Numbers]:
        """Addresses and sizes of objects. Up to the free index all are in use, behind it those
        whose bit is set: they were in use when the last collection ended."""
        raw, was_read = self.program.memory.rows(
            spans.alloc_bits.view(np.uint64), _MOST_ELEMENTS // 8
        )
        columns = np.arange(_MOST_ELEMENTS)
        used = np.unpackbits(raw, axis=1, bitorder="little").astype(np.bool_)
        used |= columns < spans.free_index[:, None]
        used &= (columns < spans.elements[:, None]) & was_read[:, None]
        row, column = used.nonzero()
        size = spans.element_size[row]
        addresses = spans.start[row] + column * size
        return addresses.view(np.uint64), size

    def _sums(self, types: Words, sizes: Numbers, not_read_count: int) -> TypesLook:
        pairs, counts = np.unique(
            np.stack((types.view(np.int64), sizes), 1), axis=0, return_counts=True
        )
        self._learn(np.unique(types))
        sums: dict[TypeKey, _Sum] = {}
        unknown = _Sum()
        for (address, size), count in zip(pairs.tolist(), counts.tolist(), strict=True):
            key = self._known.get(address)
            # A value can't be larger than what it is in.
            found = (
                unknown if key is None or key.size_bytes > size else sums.setdefault(key, _Sum())
            )
            found.count += count
            found.size_bytes += count * size
        return TypesLook(
            {key: found.seen() for key, found in sums.items()}, unknown.seen(), not_read_count
        )

    def _learn(self, addresses: Words) -> None:
        """Read types that were not met before."""
        span = self.program.types
        new = addresses[(addresses >= span.start) & (addresses < span.end)]
        new = np.array([one for one in new.tolist() if one not in self._known], np.uint64)
        new = new[:_MOST_TYPES]
        if not len(new):
            return
        if len(self._known) > _CACHED:
            self._known.clear()
        raw, was_read = self.program.memory.rows(new, _TYPE_BYTES)
        offsets = raw[:, _NAME_AT : _NAME_AT + 4].copy().view(np.int32)[:, 0].astype(np.int64)
        value_sizes = raw[:, :8].copy().view(np.uint64)[:, 0].tolist()
        names = np.clip(span.start + offsets, 0, None).view(np.uint64)
        texts, text_read = self._texts(names)
        for index, address in enumerate(new.tolist()):
            name = _name(texts[index]) if was_read[index] and text_read[index] else ""
            if raw[index, _FLAGS_AT] & _EXTRA_STAR:
                name = name[1:]
            self._known[address] = TypeKey(name, value_sizes[index]) if name else None

    def _texts(self, addresses: Words) -> tuple[list[bytes], list[bool]]:
        """What is at the addresses, up to the end of the data of types."""
        left = self.program.types.end - addresses.astype(np.int64)
        inside = (left > 0) & (addresses >= self.program.types.start)
        sizes = np.where(inside, np.minimum(left, _MOST_NAME_BYTES), 0)
        pieces = self.program.memory.gather(addresses, sizes)
        ends = pieces.starts + sizes
        texts = [
            pieces.data[start:end].tobytes()
            for start, end in zip(pieces.starts.tolist(), ends.tolist(), strict=True)
        ]
        return texts, (pieces.was_read & inside).tolist()


def _name(raw: bytes) -> str:
    """A byte of flags, the length in groups of 7 bits, and the name. A longer one is cut."""
    length = shift = 0
    at = 1
    for byte in raw[1:4]:
        at += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return raw[at : at + length].decode("utf-8", "replace")
