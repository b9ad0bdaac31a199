"""Shared objects with unwind tables of any requested size, made quickly.

The table describes adjacent functions, each with a different frame, so that no two have the same
instructions: the most work that a table of that size can cause.
"""

from __future__ import annotations

import mmap
import struct
import subprocess
from pathlib import Path

import numpy as np

FUNCTION_BYTES = 16  # of code, each described by one record
_RECORD_BYTES = 56
_FIRST_ADDRESS = 0x1000  # of code, independently of the linker: what is before it is left out
_MADE_NAME = ".no_frame"
_CIE_BODY = struct.pack("<IB", 0, 1) + b"\0" + b"\1\x78\x10" + b"\x0c\x07\x08\x90\x01"


def eh_frame(size_bytes: int, seed: int) -> bytes:
    """A .eh_frame of about that size (LSB Core, "The .eh_frame section"), with absolute addresses.

    Each record has nine rows: that of the CIE, and eight times `DW_CFA_advance_loc 1`,
    `DW_CFA_def_cfa_offset` with 14 bits.
    """
    cie = _CIE_BODY + bytes(-(len(_CIE_BODY) + 4) % 8)
    head = struct.pack("<I", len(cie)) + cie
    count = (size_bytes - len(head)) // _RECORD_BYTES
    record = np.dtype(
        [
            ("length", "<u4"),
            ("cie", "<u4"),
            ("begin", "<u8"),
            ("size", "<u8"),
            ("rows", [("advance", "u1"), ("cfa", "u1"), ("low", "u1"), ("high", "u1")], 8),
        ]
    )
    assert record.itemsize == _RECORD_BYTES
    records = np.zeros(count, dtype=record)
    index = np.arange(count, dtype=np.uint64)
    records["length"] = _RECORD_BYTES - 4
    records["cie"] = len(head) + index * _RECORD_BYTES + 4
    records["begin"] = _FIRST_ADDRESS + index * FUNCTION_BYTES
    records["size"] = FUNCTION_BYTES
    frames = np.random.default_rng(seed).integers(2, 1 << 11, (count, 8), dtype=np.uint64) * 8
    records["rows"]["advance"] = 0x41
    records["rows"]["cfa"] = 0x0E
    records["rows"]["low"] = 0x80 | (frames & 0x7F)
    records["rows"]["high"] = frames >> 7 & 0x7F
    return head + records.tobytes() + bytes(4)


def build(compiler: str, path: Path, size_bytes: int, seed: int = 0) -> Path:
    """A shared object at `path` with a table of about that size, and the code that it describes."""
    table, source = path.with_suffix(".table"), path.with_suffix(".s")
    table.write_bytes(eh_frame(size_bytes, seed))
    # Code that is never executed, and a table that the linker is to leave alone, under a name of
    # the same length.
    source.write_text(
        f".text\n.globl {path.stem}\n{path.stem}:\n"
        f".space {size_bytes // _RECORD_BYTES * FUNCTION_BYTES}\n"
        f'.section {_MADE_NAME},"",@progbits\n.incbin "{table}"\n'
        '.section .note.GNU-stack,"",@progbits\n'
    )
    subprocess.run([compiler, "-shared", "-nostdlib", "-o", str(path), str(source)], check=True)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as image:
        _rename(image, ".eh_frame", ".ld_frame")  # the linker's own, an empty one
        _rename(image, _MADE_NAME, ".eh_frame")
    source.unlink()
    table.unlink()
    return path


def _rename(image: mmap.mmap, section: str, name: str) -> None:
    """By its name in .shstrtab, which comes last in the file."""
    at = image.rfind(section.encode() + b"\0")
    if at >= 0:
        image[at : at + len(name)] = name.encode()
