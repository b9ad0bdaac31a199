"""Messages and notes, found by what they name: an option, a number, a file, a keyword.

Tests compare these and not whole sentences, which may be reworded without a change of behaviour:

    assert names(outcome.stderr, "--max-allocs", 1000)
    note = the_note(report, "libc.so.6", "not hooked")
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from harness.reports import Report


def names(text: str, *words: object) -> bool:
    """Whether a text contains each of the words, upper and lower case being the same.

    A word is found where a word of the text starts with it ("breakpoint" in "breakpoints"). A
    number is found as a whole, with separators of thousands or without (1 is not in "100", "0.1",
    "1,499" or "libc.so.1").
    """
    return all(_pattern(word).search(text) is not None for word in words)


def naming(texts: Iterable[str], *words: object) -> list[str]:
    """The texts that name all of the words."""
    return [text for text in texts if names(text, *words)]


def lines_naming(text: str, *words: object) -> list[str]:
    """The lines of a text that name all of the words."""
    return naming(text.splitlines(), *words)


def notes_naming(report: Report, *words: object) -> list[str]:
    """The notes about the target that name all of the words."""
    return naming(report.raw["target"]["notes"], *words)


def the_note(report: Report, *words: object) -> str:
    """The one note about the target that names all of the words."""
    found = notes_naming(report, *words)
    assert len(found) == 1, (words, report.raw["target"]["notes"])
    return found[0]


def _pattern(word: object) -> re.Pattern[str]:
    if isinstance(word, int):
        return re.compile(rf"(?<![\w.,])(?:{word}|{word:,})(?![\d.,]*\d)")
    text = str(word)
    begins = r"(?<!\w)" if text[:1].isalnum() else ""
    return re.compile(begins + re.escape(text), re.IGNORECASE)
