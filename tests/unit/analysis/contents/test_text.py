"""Text in bytes, compared with strings(1) of binutils and with what was put there."""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from leaktrace.analysis.contents.text import texts_in
from leaktrace.contents import Text


def test_text_as_strings_finds_it(tmp_path: Path, require_tool: Callable[[str], str]) -> None:
    source = random.Random(1)
    words = [b"GET /api/v1", b"abc", b"abcd", b"a\tb c", b"\x00", b"\x07", b"\xff", b"\x80\x81"]
    data = b"".join(source.choice(words) + bytes([source.randrange(32)]) for _ in range(4000))
    # Without zeros, in which strings(1) sees no UTF-16 either.
    data = data.replace(b"\0", b"\1")
    path = tmp_path / "data"
    path.write_bytes(data)
    listed = subprocess.run(
        [require_tool("strings"), "-a", "-t", "d", path], capture_output=True, check=True
    )
    expected = []
    for line in listed.stdout.decode("ascii").split("\n")[:-1]:
        offset, text = line.lstrip(" ").split(" ", 1)
        expected.append((int(offset), text.replace("\t", "\\t")))
    found = [(one.offset, one.text) for one in texts_in(data, most=len(data))]
    assert found == expected
    assert len(found) > 1000


def test_utf_8() -> None:
    data = b"\0\0" + "Grüße aus Köln".encode() + b"\0\xc3\x28" + "日本語で".encode() + b"\xff"
    assert [(one.offset, one.text) for one in texts_in(data)] == [
        (2, "Grüße aus Köln"),
        (21, "(日本語で"),
    ]


def test_utf_16_at_even_offsets() -> None:
    text = "C:\\Users".encode("utf-16le")
    assert texts_in(bytes(4) + text) == [Text(4, "C:\\Users", 16, "utf-16le")]
    assert texts_in(bytes(3) + text + b"\1") == []
    assert texts_in(b"a\0b\0c\0") == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"abc",
        b"\xed\xa0\x80" * 8,  # surrogates
        b"\xc0\xaf" * 8,  # longer than needed
        b"\xf5\x80\x80\x80" * 8,  # beyond Unicode
        "\u202e\u200b\u2028\u0085\ue000".encode() * 4,
        b"\x1b\x9b\x07\r\n" * 8,
    ],
)
def test_what_is_no_text(data: bytes) -> None:
    assert texts_in(data) == []


def test_what_is_shown_is_printable() -> None:
    data = b"\x1b[31mred\x1b[0m " + "left\u202eright".encode() + b"\0\xff\xfelast"
    texts = [one.text for one in texts_in(data)]
    assert texts == ["[31mred", "[0m left", "right", "last"]


def test_texts_are_bounded() -> None:
    data = b"x" * 1_000_000 + b"\0" + b"word\0" * 1000
    texts = texts_in(data, most=5, longest=20)
    assert len(texts) == 5
    assert texts[0] == Text(0, "x" * 17 + "...", 1_000_000)
    assert texts_in(data, most=1) == texts_in(data)[:1]
    assert texts_in(bytes(100)) == []


def test_what_looks_like_text_within_a_pointer() -> None:
    data = struct.pack("<QQ", 0x555556565656, 0x555556565656) + b"real text\0"
    assert [one.text for one in texts_in(data)] == ["VVVVUU", "VVVVUU", "real text"]
    assert [one.text for one in texts_in(data, pointers=[8])] == ["VVVVUU", "real text"]
    assert [one.text for one in texts_in(data, pointers={0, 8})] == ["real text"]


def test_a_short_string_of_libstdcxx() -> None:
    address = 0x5600_0000_1000
    room = b"hi\0 leftover\0\0\0\0"
    data = bytes(8) + struct.pack("<QQ", address + 24, 2) + room[:16] + b"behind it"
    assert texts_in(data, address) == [Text(24, "hi", 2), Text(40, "behind it", 9)]
    # Elsewhere it is no such string.
    assert [one.text for one in texts_in(data, address + 8)] == [" leftover", "behind it"]


@pytest.mark.parametrize("size", [0, 1, 16, 1 << 63])
def test_a_size_that_cannot_be(size: int) -> None:
    data = struct.pack("<QQ", 0x1010, size) + b"abcdefgh\0".ljust(16, b"\0")
    assert texts_in(data, 0x1000) == [Text(16, "abcdefgh", 8)]


def test_random_bytes() -> None:
    source = random.Random(7)
    for size in range(200):
        data = source.randbytes(size)
        for one in texts_in(data, 0x1000):
            assert one.text.isprintable()
            assert data[one.offset : one.offset + one.size].decode(one.encoding)
