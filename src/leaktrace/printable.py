"""Text from outside leaktrace, made safe to show on one line.

A symbol, a file name or a command is whatever its author chose: it can contain escape sequences
that control the reader's terminal, line breaks that forge a line of the report, or four kilobytes
of C++ template. Everything that is shown passes through `printable`. Names that are looked up or
compared stay as they were read until then; bytes are decoded with `surrogateescape`, so that none
is lost on the way.
"""

from __future__ import annotations

ELLIPSIS = "..."  # ASCII: as wide and as printable in every locale
MAX_SHOWN = 4096  # characters; a demangled template can be longer than anyone reads

_SURROGATE_ESCAPES = range(0xDC80, 0xDD00)  # undecodable bytes under PEP 383


def printable(text: str, longest: int | None = MAX_SHOWN) -> str:
    """`text` with every character that is not plainly visible replaced by its escape.

    Replaced are control characters, format characters (bidirectional overrides, zero-width ones),
    line and paragraph separators, surrogates, private and unassigned code points. A byte that was
    not UTF-8 and was decoded with `surrogateescape` is shown as that byte: `\\xff`. The result can
    be encoded in UTF-8 and stays on one line.

    Text of more than `longest` characters is cut and ends in "..."; None keeps all of it.

    Text that is printable and short enough is returned unchanged, a backslash in it too. So it
    does no harm to call this twice.
    """
    if longest is not None and len(text) > longest:
        text = text[: longest + 1]  # one too many: the cut below must see that it is too long
    if not text.isprintable():
        text = "".join(char if char.isprintable() else _escape(ord(char)) for char in text)
    if longest is not None and len(text) > longest:
        return text[: longest - len(ELLIPSIS)] + ELLIPSIS
    return text


def _escape(code: int) -> str:
    if code in _SURROGATE_ESCAPES:
        return f"\\x{code - 0xDC00:02x}"
    if code in (0x09, 0x0A, 0x0D):
        return {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}[code]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
