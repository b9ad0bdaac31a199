"""What blocks begin with, compared with a plain look at each."""

from __future__ import annotations

import numpy as np

from leaktrace.analysis.reachability.pointers import Blocks
from leaktrace.heap.beginnings import OF_BITS, group
from leaktrace.targets.memory_image import MemoryImage, Segment

HEAP, FILES, SIZE = 0x5000_0000, 0x7F00_0000_0000, 32


def grouped(*beginnings: int | str | bytes) -> dict[tuple[str, int], int]:
    """The groups of blocks that begin so: their kinds and keys, and how many there are of each."""
    words = np.zeros(len(beginnings) * SIZE // 8, dtype=np.uint64)
    for number, one in enumerate(beginnings):
        data = one.encode() if isinstance(one, str) else one
        if not isinstance(data, int):
            data = int.from_bytes(data[:8].ljust(8, b"\0"), "little")
        words[number * SIZE // 8] = data
    starts = HEAP + np.arange(len(beginnings), dtype=np.uint64) * np.uint64(SIZE)
    blocks = Blocks(starts, np.full(len(beginnings), SIZE, dtype=np.uint64))
    files = np.array([(FILES, FILES + 0x1000), (FILES + 0x3000, FILES + 0x4000)], dtype=np.uint64)
    found = group(MemoryImage([Segment(HEAP, words)]), blocks, files)
    counts = np.bincount(found.group_of, minlength=len(found)).tolist()
    groups = [(found.kind(row).name, found.key(row)) for row in range(len(found))]
    return dict(zip(groups, counts, strict=True))


def test_each_kind_of_beginning() -> None:
    assert grouped(0) == {("ZERO", SIZE): 1}
    assert grouped(HEAP + 8) == {("BLOCK", SIZE): 1}
    assert grouped(HEAP + SIZE) == {("OTHER", SIZE): 1}  # behind the only block
    assert grouped(FILES) == {("FILE", FILES): 1}
    assert grouped(FILES + 0x1000) == {("OTHER", SIZE): 1}
    assert grouped(3, 1 << 60, -1 % (1 << 64)) == {("OTHER", SIZE): 3}


def test_texts() -> None:
    for text in ("name", "longer than a word", "Grüße", "日本語", "a\tb\n", "abcdefg\0more"):
        assert grouped(text) == {("TEXT", 0): 1}, text
    for other in ("abc", b"\1abcdefg", b"abc\xff\xff\xff\xff\xff", b"\x80abcdefg", b"ab\0cdefg"):
        assert grouped(other) == {("OTHER", SIZE): 1}, other


def test_texts_that_begin_alike_are_one_group_if_they_are_many() -> None:
    many = [f"GET /{number}" for number in range(20)]
    few = [f"{number:04}" for number in range(30)]
    key = int.from_bytes(b"GET ", "little")
    assert grouped(*many, *few) == {("TEXT", key): 20, ("TEXT", 0): 30}


def test_the_address_of_a_block_is_no_text() -> None:
    """Though its bytes may be printable."""
    address = HEAP + 0x20
    assert grouped(0, address, 0) == {("ZERO", SIZE): 2, ("BLOCK", SIZE): 1}


def test_many_sizes_are_grouped_by_powers_of_two() -> None:
    """Those that are used most stay apart."""
    sizes = np.array([*range(24, 2424, 8), *[40] * 2000], dtype=np.uint64)
    starts = HEAP + np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.uint64)
    words = np.zeros(int(sizes.sum()) // 8, dtype=np.uint64)
    found = group(
        MemoryImage([Segment(HEAP, words)]), Blocks(starts, sizes), np.empty((0, 2), np.uint64)
    )
    for row in range(len(found)):
        of_group = sizes[found.group_of == row].tolist()
        if found.key(row) == 40:
            assert of_group == [40] * 2001
        else:
            assert {one.bit_length() for one in of_group} == {found.key(row) ^ int(OF_BITS)}
    assert len(found) == 1 + len(range(5, 13))
