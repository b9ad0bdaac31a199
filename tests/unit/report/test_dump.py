"""What `leaktrace dump` writes, compared with hexdump(1) and with the bytes."""

from __future__ import annotations

import io
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from leaktrace.report.dump import HexWriter, RawWriter

BASE = 0x55D0_0000_0000


def hexadecimal(*pieces: tuple[int, bytes | int]) -> list[str]:
    """The lines for data at addresses, or the sizes of holes."""
    output = io.StringIO()
    writer = HexWriter(output)
    for address, data in pieces:
        if isinstance(data, int):
            writer.hole(address, data)
        else:
            writer.data(address, data)
    writer.end()
    return output.getvalue().splitlines()


def test_it_is_what_hexdump_shows(tmp_path: Path, require_tool: Callable[[str], str]) -> None:
    source = random.Random(3)
    data = b"".join(
        source.choice([bytes(16), bytes(64), source.randbytes(16), b"0123456789abcdef" * 3])
        for _ in range(200)
    )
    for size in (len(data), len(data) - 5, 7, 16):
        path = tmp_path / "data"
        path.write_bytes(data[:size])
        told = subprocess.run(
            [require_tool("hexdump"), "-C", str(path)], capture_output=True, text=True, check=True
        )
        theirs = []
        for line in told.stdout.splitlines()[:-1]:
            offset, _, rest = line.partition("  ")
            shown = rest.replace(" |", " ", 1).removesuffix("|")
            theirs.append(line if line == "*" else f"{int(offset, 16):#014x}  {shown}")
        ours = hexadecimal((0, data[:size]))
        if "  " not in ours[-1]:  # both say where it ends
            theirs.append(f"{size:#014x}")
        assert ours == theirs


def test_pieces_make_no_difference() -> None:
    data = random.Random(5).randbytes(1000) + bytes(100) + b"end"
    whole = hexadecimal((BASE + 3, data))
    for step in (1, 7, 16, 100):
        parts = [(BASE + 3 + at, data[at : at + step]) for at in range(0, len(data), step)]
        assert hexadecimal(*parts) == whole


def test_holes_and_gaps() -> None:
    row = "61 62 63                                          abc"
    assert hexadecimal((BASE, b"abc"), (BASE + 3, 4096), (BASE + 4099, b"abc"), (0, b"abc")) == [
        f"{BASE:#x}  {row}",
        f"{BASE + 3:#x}  (4,096 bytes can't be read)",
        f"{BASE + 4099:#x}  {row}",
        f"0x000000000000  {row}",
    ]


def test_equal_rows_on_both_sides_of_a_hole_are_both_shown() -> None:
    lines = hexadecimal((0, bytes(16)), (16, 16), (32, bytes(16)))
    assert len(lines) == 3


def test_nothing_of_it_controls_a_terminal() -> None:
    lines = hexadecimal((0, bytes(range(256)) + "\u202e\x9b31m".encode()))
    assert all(line.isascii() and line.isprintable() for line in lines)


@pytest.mark.parametrize("size", [0, 1, (3 << 20) + 5])
def test_raw_bytes_and_zeros(size: int) -> None:
    raw = io.BytesIO()
    writer = RawWriter(io.TextIOWrapper(raw))
    writer.data(1, b"\xffabc\r\n")
    writer.hole(7, size)
    writer.data(7 + size, b"end")
    assert raw.getvalue() == b"\xffabc\r\n" + bytes(size) + b"end"
