"""The harness compares messages by what they name; a number must be that number."""

from __future__ import annotations

import pytest
from harness.wording import names


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("1 block", 1),
        ("4,096 blocks", 4096),
        ("4096 blocks", 4096),
        ("exit status 9.", 9),
        ("(6)", 6),
        ("two breakpoints", "breakpoint"),
        ("leave -O out", "-O"),
        ("LIBC", "libc"),
    ],
)
def test_named(text: str, word: object) -> None:
    assert names(text, word)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("100", 1),
        ("1,499 blocks", 499),
        ("libc.so.6: x", 6),
        ("0.1 s", 1),
        ("1.5 s", 1),
        ("unhooked", "hooked"),
    ],
)
def test_not_named(text: str, word: object) -> None:
    assert not names(text, word)
