"""What blocks share, for blocks made by hand."""

from __future__ import annotations

from collections.abc import Iterable

from leaktrace.analysis.contents.shared import MOST_SHARED, shared_by
from leaktrace.analysis.contents.text import texts_in
from leaktrace.contents import BlockContents, Pointer, PointerKind, Shared, SharedKind


def block(data: bytes, *pointers: Pointer, size: int | None = None) -> BlockContents:
    size = len(data) if size is None else size
    return BlockContents(0x1000, size, 1, data, tuple(texts_in(data)), pointers)


def kinds(found: Iterable[Shared]) -> list[SharedKind]:
    return [one.kind for one in found]


def test_one_block_shares_nothing() -> None:
    assert shared_by([]) == shared_by([block(b"text text")]) == ()


def test_a_beginning_that_nine_of_ten_have() -> None:
    blocks = [block(f"GET /api/{number:03}".encode()) for number in range(18)]
    others = [block(b"PUT something"), block(b"\0" * 12)]
    assert shared_by(blocks + others)[-1] == Shared(SharedKind.TEXT, 18, 20, 0, text="GET /api/0")
    # With a third one there are too few: but all of these begin with some text.
    found = shared_by([*blocks[:17], *others, block(b"x" * 20)])
    assert found[-1] == Shared(SharedKind.TEXT, 19, 20, 0)
    assert SharedKind.TEXT not in kinds(shared_by([*blocks[:17], *others[1:] * 3]))


def test_text_that_begins_differently() -> None:
    blocks = [block(bytes(8) + bytes([ord("a") + number]) * 8) for number in range(10)]
    assert shared_by(blocks)[-1] == Shared(SharedKind.TEXT, 10, 10, 8)


def test_sizes() -> None:
    blocks = [block(bytes([number]) * 8, size=100) for number in range(9)]
    assert shared_by([*blocks, block(b"9", size=7)]) == (
        Shared(SharedKind.SIZE, 9, 10, size_bytes=100),
    )
    assert shared_by([*blocks, block(b"9", size=7), block(b"8", size=9)]) == ()


def test_zero_absent_and_same_blocks() -> None:
    assert shared_by([block(bytes(16))] * 3)[1:] == (Shared(SharedKind.ZERO, 3, 3, size_bytes=16),)
    assert shared_by([block(b"", size=16)] * 3)[1:] == (Shared(SharedKind.ABSENT, 3, 3),)
    assert shared_by([block(b"\1\2")] * 3)[1:] == (Shared(SharedKind.SAME, 3, 3, size_bytes=2),)
    # Equal bytes of blocks of different sizes are not the same.
    different = [block(b"\1\2", size=number) for number in range(2, 5)]
    assert shared_by(different) == ()


def test_pointers_to_the_same_kind_of_thing() -> None:
    session = [Pointer(0, 0x100, PointerKind.CLASS, "Session")]
    nodes = [Pointer(16, value, PointerKind.BLOCK, None, "6f1d2a") for value in range(10)]
    blocks = [block(bytes([9, number]), *session, node) for number, node in enumerate(nodes)]
    assert shared_by(blocks)[1:] == (
        Shared(SharedKind.POINTER, 10, 10, 0, pointer=session[0]),
        Shared(SharedKind.POINTER, 10, 10, 16, pointer=nodes[0]),
    )
    # Blocks of another site are something else.
    others = [block(b"\7", Pointer(16, 1, PointerKind.BLOCK, None, "other"))] * 2
    assert kinds(shared_by(blocks[:8] + others)) == []


def test_what_is_shared_is_bounded() -> None:
    many = [Pointer(at, 1, PointerKind.DATA, "same") for at in range(0, 800, 8)]
    found = shared_by([block(b"\1", *many), block(b"\2", *many)])
    assert len(found) == MOST_SHARED + 1
    assert [one.offset for one in found[1:]] == list(range(0, 8 * MOST_SHARED, 8))
