"""What the contents of some sections say: compressed sections, notes, the name of a debug file."""

from __future__ import annotations

import os
import struct
import zlib

from leaktrace.elf.headers import MAX_PART_BYTES, SHF_COMPRESSED, ElfFile, Section
from leaktrace.elf.symbols import ByteOrder
from leaktrace.errors import ObjectFileError

_MAX_BUILD_ID_BYTES = 64
_MAX_DEFLATE_RATIO = 1032  # of zlib, https://zlib.net/zlib_tech.html
_MAX_ZSTD_RATIO = 65_536  # zstd has no hard limit; debug information compresses about 1:3
_ELFCOMPRESS_ZLIB, _ELFCOMPRESS_ZSTD = 1, 2
_NT_GNU_BUILD_ID = 3


def contents(file: ElfFile, section: Section) -> bytes:
    """The contents of a section, decompressed (gABI, "Compression Header").

    Raises ObjectFileError.
    """
    raw = file.read(section.offset, section.size)
    if not section.flags & SHF_COMPRESSED:
        return raw
    shown = f"{file.shown}: section {section.name}"
    layout = file.byte_order + ("IIQQ" if file.bits == 64 else "III")
    if len(raw) < struct.calcsize(layout):
        raise ObjectFileError(f"{shown} is truncated")
    method, *rest = struct.unpack_from(layout, raw)
    size = rest[1] if file.bits == 64 else rest[0]
    return _decompress(method, raw[struct.calcsize(layout) :], size, shown)


def _decompress(method: int, raw: bytes, size: int, shown: str) -> bytes:
    ratio = _MAX_DEFLATE_RATIO if method == _ELFCOMPRESS_ZLIB else _MAX_ZSTD_RATIO
    if size > MAX_PART_BYTES or size > (len(raw) + 64) * ratio:
        raise ObjectFileError(f"{shown} claims {size:,} bytes")
    if method == _ELFCOMPRESS_ZLIB:
        try:
            # One byte more than it claims, to notice a stream that goes on.
            data = zlib.decompressobj().decompress(raw, size + 1)
        except zlib.error as error:
            raise ObjectFileError(f"{shown} is damaged") from error
    elif method == _ELFCOMPRESS_ZSTD:
        data = _decompress_zstd(raw, size, shown)
    else:
        raise ObjectFileError(f"{shown} has compression {method}")
    if len(data) != size:
        raise ObjectFileError(f"{shown} is damaged")
    return data


def _decompress_zstd(raw: bytes, size: int, shown: str) -> bytes:
    try:
        import zstandard  # noqa: PLC0415 - optional: few distributions compress with it
    except ImportError:
        raise ObjectFileError(
            f"{shown} is compressed with zstd", "install the Python package zstandard"
        ) from None
    try:
        with zstandard.ZstdDecompressor().stream_reader(raw) as reader:
            data: bytes = reader.read(size)
            return data
    except zstandard.ZstdError as error:
        raise ObjectFileError(f"{shown} is damaged") from error


def build_id_in(notes: bytes, byte_order: ByteOrder) -> str | None:
    """The GNU build ID among the notes of a section or segment, in hexadecimal (gABI, "Note
    Section"); None where there is none."""
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from(byte_order + "III", notes, at)
        name_at = at + 12
        start = name_at + (name_size + 3 & ~3)
        end = start + size
        if end > len(notes):
            return None
        if kind == _NT_GNU_BUILD_ID and notes[name_at : name_at + name_size] == b"GNU\0":
            return notes[start:end].hex() if 0 < size <= _MAX_BUILD_ID_BYTES else None
        at = end + 3 & ~3
    return None


def debug_link_in(data: bytes, byte_order: ByteOrder) -> tuple[str, int] | None:
    """Name and CRC32 of the separate debug file, from the contents of .gnu_debuglink (gdb,
    "Separate Debug Files"); None where they are damaged."""
    length = data.find(b"\0")
    crc_at = length + 4 & ~3
    if length <= 0 or crc_at + 4 > len(data):
        return None
    crc: int = struct.unpack_from(byte_order + "I", data, crc_at)[0]
    return os.fsdecode(data[:length]), crc
