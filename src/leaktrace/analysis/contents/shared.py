"""What many blocks have in common."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from itertools import islice, takewhile

from leaktrace.analysis.contents.text import LEAST_CHARACTERS
from leaktrace.contents import BlockContents, Pointer, Shared, SharedKind
from leaktrace.printable import ELLIPSIS

MOST_SHARED = 10


def shared_by(blocks: Sequence[BlockContents]) -> tuple[Shared, ...]:
    """What nine of ten of these blocks have in common, or more: nothing if there are less than
    two."""
    if len(blocks) < 2:
        return ()
    at_offsets = sorted([*_pointers(blocks), *_texts(blocks)], key=lambda one: one.offset)
    return (*_as_a_whole(blocks), *islice(at_offsets, MOST_SHARED))


def _is_usual(count: int, blocks: Sequence[BlockContents]) -> bool:
    return count * 10 >= len(blocks) * 9


def _as_a_whole(blocks: Sequence[BlockContents]) -> Iterator[Shared]:
    size, count = Counter(one.size_bytes for one in blocks).most_common(1)[0]
    if _is_usual(count, blocks):
        yield Shared(SharedKind.SIZE, count, len(blocks), size_bytes=size)
    data, count = Counter((one.size_bytes, one.data) for one in blocks).most_common(1)[0]
    absent = sum(not one.data for one in blocks)
    zero = sum(bool(one.data) and not any(one.data) for one in blocks)
    if _is_usual(absent, blocks):
        yield Shared(SharedKind.ABSENT, absent, len(blocks))
    elif _is_usual(zero, blocks):
        yield Shared(SharedKind.ZERO, zero, len(blocks), size_bytes=min(map(_read, blocks)))
    elif data[1] and _is_usual(count, blocks):
        yield Shared(SharedKind.SAME, count, len(blocks), size_bytes=len(data[1]))


def _read(block: BlockContents) -> int:
    return len(block.data)


def _pointers(blocks: Sequence[BlockContents]) -> Iterator[Shared]:
    by_offset: defaultdict[int, list[Pointer]] = defaultdict(list)
    for block in blocks:
        for pointer in block.pointers:
            by_offset[pointer.offset].append(pointer)
    for offset, pointers in by_offset.items():
        meaning, count = Counter(map(_meaning, pointers)).most_common(1)[0]
        if _is_usual(count, blocks):
            example = next(one for one in pointers if _meaning(one) == meaning)
            yield Shared(SharedKind.POINTER, count, len(blocks), offset, pointer=example)


def _meaning(pointer: Pointer) -> Hashable:
    """Equal for pointers to the same kind of thing."""
    return pointer.kind, pointer.name, pointer.site_id, pointer.is_own, pointer.into_bytes


def _texts(blocks: Sequence[BlockContents]) -> Iterator[Shared]:
    by_offset: defaultdict[int, list[str]] = defaultdict(list)
    for block in blocks:
        for text in block.texts:
            by_offset[text.offset].append(text.text)
    for offset, texts in by_offset.items():
        if not _is_usual(len(texts), blocks):
            continue
        beginning = _usual_beginning(texts, -(-len(blocks) * 9 // 10))
        if beginning is None:
            yield Shared(SharedKind.TEXT, len(texts), len(blocks), offset)
        else:
            count = sum(text.startswith(beginning) for text in texts)
            yield Shared(SharedKind.TEXT, count, len(blocks), offset, text=beginning)


def _usual_beginning(texts: Sequence[str], least: int) -> str | None:
    """The longest beginning that at least so many texts have; None if it is short."""
    ordered = sorted(text.removesuffix(ELLIPSIS) for text in texts)
    found = [
        _common(ordered[first], ordered[first + least - 1])
        for first in range(len(ordered) - least + 1)
    ]
    longest = max(found, key=len, default="")
    return longest if len(longest) >= LEAST_CHARACTERS else None


def _common(one: str, other: str) -> str:
    """What both begin with."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(character for character, _ in same)
