"""Recordings as files of lines, compressed by gzip or Zstandard if their names say so.

Each line can be read as soon as it is written: the compression is flushed, and the file is, too. So
what was written before a kill or a full disk can be read. Sources: RFC 1952, RFC 8878.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
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


class _Compressor(Protocol):
    """What zlib, zstandard and plain files have in common."""

    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self, mode: int = ..., /) -> bytes: ...


class LineFile:
    """Writes lines to a file.

    If a line can't be written, what was written of it is removed again, and the next line begins
    anew: with a gzip member or a Zstandard frame of its own, which readers join.
    """

    def __init__(self, file: FileIO, path: Path) -> None:
        """Raises EnvironmentUnfitError if a package is missing."""
        self._file = file
        self._new = _compressor_of(path.suffix)
        self._compressor: _Compressor | None = None
        self._flush = _flush_mode(path.suffix)
        self._written = 0

    def write(self, lines: bytes) -> None:
        """Write lines, and flush them. Raises OSError; then none of them is written."""
        compressor = self._compressor
        if compressor is None:
            compressor = self._compressor = self._new()
        data = compressor.compress(lines) + compressor.flush(self._flush)
        try:
            self._write_all(data)
        except OSError:
            self._compressor = None
            with contextlib.suppress(OSError):
                self._file.truncate(self._written)
                self._file.seek(self._written)
            raise
        self._written += len(data)

    @property
    def size_bytes(self) -> int:
        """How large the file is."""
        return self._written

    def close(self) -> None:
        """Raises OSError."""
        try:
            if self._compressor is not None:
                self._write_all(self._compressor.flush())
        finally:
            self._file.close()

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) or 0 :]


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self, _mode: int = 0, /) -> bytes:
        return b""


def _compressor_of(suffix: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
    if suffix == ".gz":
        return lambda: zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    if suffix == ".zst":
        zstandard = _zstandard()
        return lambda: zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj()
    return _Plain


def _flush_mode(suffix: str) -> int:
    if suffix == ".zst":
        return int(_zstandard().COMPRESSOBJ_FLUSH_BLOCK)
    return zlib.Z_SYNC_FLUSH


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
        NotReadableError: it can't be opened, or not be decompressed.
        CutOffError: after the last whole line, if more follows.
    """
    shown = printable(str(path))
    try:
        with path.open("rb") as file:
            yield from _split(_decompressed(file, shown), shown)
    except OSError as error:
        raise NotReadableError(
            f"can't read {shown}: {error.strerror}", "check the path and its permissions"
        ) from None


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
