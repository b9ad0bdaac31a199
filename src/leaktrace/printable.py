"""Names that come from the traced process, made fit to be shown."""

from __future__ import annotations

MAX_SHOWN = 4096  # letters; a demangled template can be longer than anyone reads


def printable(text: str) -> str:
    """The text without control characters, unpaired surrogates and what else doesn't print.

    A file name or symbol could otherwise move the cursor, colour the terminal or forge a line.
    """
    if len(text) > MAX_SHOWN:
        text = text[: MAX_SHOWN - 1] + "…"
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )
