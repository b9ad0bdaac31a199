"""Bytes of files that others own: read, never mapped, so that truncation can't kill the reader."""

from __future__ import annotations

import os
import stat
import weakref
from pathlib import Path
from typing import Protocol

from leaktrace.errors import ObjectFileError


def open_regular(path: str | Path) -> int:
    """Opens a file for reading, but not a device or FIFO, where opening alone has effects."""
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise ValueError("not a regular file")
        return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(place)


class Source(Protocol):
    """Bytes with a known end. `read` returns exactly `size` bytes or raises ObjectFileError."""

    size: int

    def read(self, offset: int, size: int) -> bytes: ...


class FileSource:
    """An open file. It owns the descriptor, and closes it when it is collected."""

    def __init__(self, descriptor: int, shown: str) -> None:
        self.descriptor = descriptor
        self._shown = shown
        weakref.finalize(self, os.close, descriptor)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ObjectFileError(f"{shown} is not a regular file")
        self.size = status.st_size

    def read(self, offset: int, size: int) -> bytes:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ObjectFileError(f"{self._shown} is truncated: {size:,} bytes at {offset:#x}")
        pieces: list[bytes] = []
        while size > 0:
            try:
                piece = os.pread(self.descriptor, min(size, 1 << 30), offset)
            except OSError as error:
                raise ObjectFileError(f"{self._shown} can't be read: {error.strerror}") from error
            if not piece:
                raise ObjectFileError(f"{self._shown} was truncated while it was read")
            pieces.append(piece)
            offset += len(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class MemorySource:
    """Bytes that were copied already."""

    def __init__(self, data: bytes, shown: str) -> None:
        self._data = data
        self._shown = shown
        self.size = len(data)

    def read(self, offset: int, size: int) -> bytes:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ObjectFileError(f"{self._shown} is truncated: {size:,} bytes at {offset:#x}")
        return self._data[offset : offset + size]
