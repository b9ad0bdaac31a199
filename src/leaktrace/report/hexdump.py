"""Bytes in hexadecimal, with the text beside them."""

from __future__ import annotations

from collections.abc import Iterator

BYTES = 16  # of a row
_CELLS = 3  # of a byte


def hexdump(data: bytes, row_bytes: int = BYTES) -> Iterator[tuple[int, str]]:
    """The offset and the text of each row: "48 49 00  HI.". What is not printable ASCII is a dot in
    the text."""
    for at in range(0, len(data), row_bytes):
        row = data[at : at + row_bytes]
        half = row_bytes // 2
        cells = f"{row[:half].hex(' ')}  {row[half:].hex(' ')}".rstrip()
        text = "".join(chr(one) if 0x20 <= one < 0x7F else "." for one in row)
        yield at, f"{cells.ljust(_CELLS * row_bytes)}  {text}"


def row_cells(row_bytes: int) -> int:
    """How wide the text of a row is."""
    return (_CELLS + 1) * row_bytes + 2
