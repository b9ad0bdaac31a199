"""Text from outside leaktrace: escaped, bounded, on one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaktrace.printable import ELLIPSIS, MAX_SHOWN, printable

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=200)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("main", "main"),
        ("größe_漢字", "größe_漢字"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x9b", "\\x9b"),
        ("\u202e", "\\u202e"),
        ("\U000e0001", "\\U000e0001"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), "caf\\xe9"),
        ("\ud800", "\\ud800"),
    ],
)
def test_printable(name: str, shown: str) -> None:
    assert printable(name) == shown


@given(ANY_TEXT)
def test_printable_is_always_one_line_of_valid_utf8(name: str) -> None:
    shown = printable(name)
    shown.encode("utf-8")
    assert shown.isprintable()
    assert printable(shown) == shown


@pytest.mark.parametrize("name", ["\\x1b[31m", "C:\\new\\table", "a\\\\b"])
def test_a_literal_backslash_stays(name: str) -> None:
    assert printable(name) == name


@pytest.mark.parametrize("name", ["a" * 5000, "\x1b" * 4096, "\x1b" * 1500, "a" * 4096 + "\n"])
def test_long_text_is_cut_once(name: str) -> None:
    shown = printable(name)
    assert len(shown) == MAX_SHOWN
    assert shown.endswith(ELLIPSIS)
    assert printable(shown) == shown


def test_text_of_the_greatest_length_is_whole() -> None:
    assert printable("a" * MAX_SHOWN) == "a" * MAX_SHOWN


def test_without_a_limit_all_is_kept() -> None:
    assert printable("\x07" * 5000, longest=None) == "\\x07" * 5000


@given(ANY_TEXT, st.integers(3, 60))
def test_a_limit_holds_for_what_is_shown(name: str, longest: int) -> None:
    shown = printable(name, longest)
    assert len(shown) <= longest
    assert printable(shown, longest) == shown
