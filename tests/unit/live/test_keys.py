"""Keys from bytes of a terminal."""

from __future__ import annotations

import pytest

from leaktrace.live.keys import KeyParser


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"qs/", ["q", "s", "/"]),
        (b"\x1b[A\x1bOB\x1b[C\x1b[D", ["up", "down", "right", "left"]),
        (b"\x1b[5~\x1b[6~\x1b[1~\x1b[F", ["pageup", "pagedown", "home", "end"]),
        (b"\x1b[1;5A", ["up"]),  # with Ctrl
        (b"\x1b", ["escape"]),
        (b"\x1b\x1b[A", ["escape", "up"]),
        (b"\r\n\t\x7f", ["enter", "enter", "tab", "backspace"]),
        ("ö".encode(), ["ö"]),
        (b"\x1b[200~x", ["x"]),  # the beginning of a paste
        (b"\x00\x07", []),
        (b"\xff\xfeq", ["q"]),
    ],
)
def test_keys(data: bytes, keys: list[str]) -> None:
    assert KeyParser().feed(data) == keys


def test_a_sequence_in_pieces() -> None:
    parser = KeyParser()
    assert [parser.feed(bytes([byte])) for byte in "ö".encode()] == [[], ["ö"]]
    assert parser.feed(b"\x1b[") == []
    assert parser.feed(b"1;2") == []
    assert parser.feed(b"Bq") == ["down", "q"]


def test_a_sequence_without_end_is_given_up() -> None:
    parser = KeyParser()
    assert parser.feed(b"\x1b[" + b"1" * 100)[0] == "escape"
    assert parser.feed(b"q") == ["q"]
