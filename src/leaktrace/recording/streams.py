"""Recordings as files of lines, compressed by gzip or Zstandard if their names say so.

Each line can be read as soon as it is written: the compression is flushed, and the file is, too. So
what was written before a kill or a full disk can be read. Sources: RFC 1952, RFC 8878.
"""

from __future__ import annotations

import contextlib
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, Protocol

from leaktrace.errors import EnvironmentUnfitError, LeaktraceError
from leaktrace.printable import printable
from leaktrace.recording.format import LONGEST_LINE

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_GZIP_WINDOW = 16 + zlib.MAX_WBITS  # with a header
_GZIP_LEVEL, _ZSTD_LEVEL = 6, 6
_ZSTD_WINDOW_BYTES = 128 << 20  # what a reader provides at most
_PIECE = 1 << 18


class _Compression(Protocol):
    """One member, frame or plain piece of a file."""

    def add(self, data: bytes) -> bytes:
        """What is to be written for these bytes, so that they can be read."""

    def end(self) -> bytes:
        """What ends it after the last call of `add` whose bytes were written."""

    def keep(self) -> None:
        """The bytes of the last call of `add` were written."""


class LineFile:
    """Writes lines to a file.

    If a line can't be written, what was written of it is removed again, and the next line begins
    anew: with a gzip member or a Zstandard frame of its own, which readers join.
    """

    def __init__(self, file: FileIO, path: Path) -> None:
        """Raises EnvironmentUnfitError if a package is missing."""
        self._file = file
        self._new = _compression_of(path.suffix)
        self._compression: _Compression = self._new()
        self._before = b""  # what ends the one before, and is not yet written
        self.size_bytes = 0

    def write(self, lines: bytes) -> None:
        """Write lines, and flush them. Raises OSError; then none of them is written."""
        data = self._before + self._compression.add(lines)
        try:
            self._write_all(data)
        except OSError:
            if not self._before:
                self._before = self._compression.end()
            self._compression = self._new()
            with contextlib.suppress(OSError):
                self._file.truncate(self.size_bytes)
                self._file.seek(self.size_bytes)
            raise
        self._before = b""
        self._compression.keep()
        self.size_bytes += len(data)

    def close(self) -> None:
        """Raises OSError."""
        try:
            if self.size_bytes:
                self._write_all(self._before or self._compression.end())
        finally:
            self._file.close()

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) or 0 :]


class _Plain:
    def add(self, data: bytes) -> bytes:
        return data

    def end(self) -> bytes:
        return b""

    def keep(self) -> None:
        """There is nothing to keep."""


class _Gzip:
    """A member of a gzip file, whose end can be made at each flush: RFC 1951, 3.2.4; RFC 1952."""

    _HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    _EMPTY_LAST_BLOCK = b"\x01\0\0\xff\xff"

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._check = self._next_check = (0, 0)  # CRC and size of what is in it
        self._is_empty = True

    def add(self, data: bytes) -> bytes:
        crc, size = self._check
        self._next_check = zlib.crc32(data, crc), (size + len(data)) & 0xFFFF_FFFF
        flushed = self._deflate.compress(data) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return (self._HEADER if self._is_empty else b"") + flushed

    def keep(self) -> None:
        self._check, self._is_empty = self._next_check, False

    def end(self) -> bytes:
        if self._is_empty:
            return b""
        return self._EMPTY_LAST_BLOCK + struct.pack("<II", *self._check)


class _Zstandard:
    """A frame, whose end can be made at each flush: RFC 8878, 3.1.1.2."""

    _EMPTY_LAST_BLOCK = b"\x01\0\0"

    def __init__(self) -> None:
        zstandard = _zstandard()
        # Without a checksum, so that the end doesn't depend on what was not written.
        compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=False)
        self._compress = compressor.compressobj()
        self._flush = int(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        self._is_empty = True

    def add(self, data: bytes) -> bytes:
        return bytes(self._compress.compress(data)) + bytes(self._compress.flush(self._flush))

    def keep(self) -> None:
        self._is_empty = False

    def end(self) -> bytes:
        return b"" if self._is_empty else self._EMPTY_LAST_BLOCK


def _compression_of(suffix: str) -> Callable[[], _Compression]:
    known: dict[str, Callable[[], _Compression]] = {".gz": _Gzip, ".zst": _Zstandard}
    return known.get(suffix, _Plain)


def _zstandard() -> ModuleType:
    try:
        import zstandard  # noqa: PLC0415
    except ImportError:
        raise EnvironmentUnfitError(
            "recordings that end in .zst need the Python package zstandard",
            "install it (Debian: python3-zstandard; pip: leaktrace[zstd]), or use .gz",
        ) from None
    return zstandard


class CutOffError(Exception):
    """The file ends within a line, or within its compression."""


class NotReadableError(LeaktraceError):
    """A file can't be read, or is not what it should be."""


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, without their ends, as they are read from it.

    Raises:
        NotReadableError: it can't be opened, is no file that can be read more than once, or can't
            be decompressed.
        CutOffError: after the last whole line, if more follows.
    """
    shown = printable(str(path))
    try:
        _refuse_pipe(path, shown)
        with path.open("rb") as file:
            if not file.seekable():
                raise _not_a_file(f"{shown} is a device")
            yield from _split(_decompressed(file, shown), shown)
    except OSError as error:
        why = error.strerror or "it is not a file"
        raise NotReadableError(
            f"can't read {shown}: {why}", "check the path and its permissions"
        ) from None


def _refuse_pipe(path: Path, shown: str) -> None:
    """Raises NotReadableError, before a pipe that nobody writes to is waited for; OSError."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if str(path) == "-":
            raise _not_a_file("- (standard input) is a pipe") from None
        raise
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        raise _not_a_file(f"{shown} is a pipe")


def _not_a_file(what: str) -> NotReadableError:
    return NotReadableError(
        f"{what}, and a recording is read more than once", "save it to a file first"
    )


def _split(pieces: Iterator[bytes], shown: str) -> Iterator[bytes]:
    rest = bytearray()
    at = 0  # what comes before was searched already
    for piece in pieces:
        rest += piece
        begin = 0
        while (end := rest.find(b"\n", max(at, begin))) >= 0:
            yield bytes(rest[begin:end])
            begin = end + 1
        del rest[:begin]
        at = len(rest)
        if at > LONGEST_LINE:
            raise NotReadableError(
                f"{shown} is not a recording: a line has more than {LONGEST_LINE >> 20} MiB",
                "name a file that leaktrace --record, or --format json, has written",
            )
    if rest:
        raise CutOffError


def _decompressed(file: BinaryIO, shown: str) -> Iterator[bytes]:
    magic = file.read(len(_ZSTD))
    file.seek(0)
    try:
        if magic.startswith(_GZIP):
            yield from _gunzipped(file)
        elif magic == _ZSTD:
            yield from _unzstd(file)
        else:
            while piece := file.read(_PIECE):
                yield piece
    except zlib.error:
        raise NotReadableError(
            f"{shown} is damaged: it can't be decompressed any further", "use another copy of it"
        ) from None


def _gunzipped(file: BinaryIO) -> Iterator[bytes]:
    """All members of the file, in pieces of a limited size."""
    member = zlib.decompressobj(_GZIP_WINDOW)
    is_new = True
    while data := file.read(_PIECE):
        while data:
            is_new = False
            yield member.decompress(data, _PIECE)
            data = member.unconsumed_tail
            if member.eof:
                data = member.unused_data
                member, is_new = zlib.decompressobj(_GZIP_WINDOW), True
    if not is_new:
        while piece := member.decompress(b"", _PIECE):
            yield piece


def _unzstd(file: BinaryIO) -> Iterator[bytes]:
    zstandard = _zstandard()
    reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).stream_reader(
        file, read_across_frames=True
    )
    try:
        while piece := reader.read(_PIECE):
            yield piece
    except zstandard.ZstdError as error:
        raise zlib.error(str(error)) from None
