from __future__ import annotations

import numpy as np

from leaktrace.targets.memory_image import MemoryImage, Segment


def _image() -> MemoryImage:
    return MemoryImage(
        [
            Segment(0x3000, np.arange(300, 302, dtype=np.uint64)),
            Segment(0x1000, np.arange(100, 104, dtype=np.uint64)),
            Segment(0x1020, np.arange(200, 203, dtype=np.uint64)),
        ]
    )


def test_words_are_found_by_address() -> None:
    image = _image()
    assert [image.word(at) for at in (0x1000, 0x1018, 0x1020, 0x1030, 0x3008)] == [
        100,
        103,
        200,
        202,
        301,
    ]
    assert [image.word(at) for at in (0, 0xFF8, 0x1038, 0x3010, 0x1001)] == [0, 0, 0, 0, 0]


def test_many_words_are_gathered_in_any_order() -> None:
    addresses = np.array([0x3008, 0x1000, 0x9000, 0x1020, 0x8, 0x1018], dtype=np.uint64)
    assert _image().gather(addresses).tolist() == [301, 100, 0, 200, 0, 103]
    assert MemoryImage([]).gather(addresses).tolist() == [0] * 6


def test_reading_goes_on_into_the_next_segment_and_ends_where_nothing_is() -> None:
    image = _image()
    words = [*range(100, 104), *range(200, 203)]
    expected = b"".join(word.to_bytes(8, "little") for word in words)
    assert image.read(0x1000, 1000) == expected
    assert image.read(0x1003, 10) == expected[3:13]
    assert image.read(0x2000, 8) == b""


def test_pieces_are_the_whole_image_in_order() -> None:
    large = Segment(0x10000, np.arange(300_000, dtype=np.uint64))
    image = MemoryImage([large, Segment(0x1000, np.arange(4, dtype=np.uint64))])
    found = list(image.pieces())
    assert [one.start for one in found] == [0x1000, 0x10000, 0x110000, 0x210000]
    assert np.concatenate([one.words for one in found[1:]]).tolist() == list(range(300_000))
    assert image.size_bytes == (300_000 + 4) * 8
    assert image.ranges().tolist() == [[0x1000, 0x1020], [0x10000, 0x10000 + 2_400_000]]
