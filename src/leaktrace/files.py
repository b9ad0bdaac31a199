"""Files of other owners: how they are opened, and how their bytes are read.

The owner of a file can put anything in its place: a directory, a FIFO without a writer, a device
that acts when it is opened, a sparse file of a terabyte. So every such file is opened by
`open_regular`, which checks the type before it opens and never waits. Files are read, never mapped:
truncating a mapped file would kill the reader (SIGBUS).
"""

from __future__ import annotations

import errno
import os
import stat
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from leaktrace.errors import NotAnObjectError, ObjectFileError
from leaktrace.own.descriptors import POOL


class NotRegularError(OSError):
    """The file is a directory, FIFO, socket, device or symbolic link."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(errno.EINVAL, "not a regular file", str(path))


def open_regular(path: str | Path, *, directory: int | None = None, follow: bool = True) -> int:
    """Open a regular file for reading and return its descriptor; never open or wait for others.

    `directory` is the descriptor that a relative path starts from; with `follow`, the file may be
    a symbolic link.
    Raises OSError, also NotRegularError, and ValueError for a path with a zero byte.
    """
    flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    return for_reading(os.open(path, flags, dir_fd=directory), path)


def for_reading(place: int, shown: str | Path) -> int:
    """The same for a file that is already found: `place` is its O_PATH descriptor, closed here.

    Raises OSError, also NotRegularError.
    """
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise NotRegularError(shown)
        # A process with a lease on the file (fcntl(2), F_SETLEASE) could make open(2) wait.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{place}", flags)
    finally:
        os.close(place)


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    """Identity and state of a file: any change to it changes this."""
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return (status.st_dev, status.st_ino, status.st_size, *times)


class Source(Protocol):
    """Bytes of known length. `read` returns exactly `size` bytes or raises ObjectFileError."""

    size: int
    stamp: tuple[int, ...]  # differs if the bytes do; () if that is not known

    def read(self, offset: int, size: int) -> bytes: ...


class FileSource:
    """An open file. It owns the descriptor and closes it when it is garbage-collected.

    A file that can be opened again may be closed in between, when descriptors are scarce.
    """

    def __init__(
        self, descriptor: int, shown: str, reopen: Callable[[], int] | None = None
    ) -> None:
        """`reopen` returns another descriptor of the file, or raises OSError or ObjectFileError."""
        self._shown = shown
        self._reopen = reopen
        self.pins = 0
        self._hold(descriptor)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotAnObjectError(f"{shown} is not a regular file")
        self.size = status.st_size
        self.stamp = _stamp(status)

    def _hold(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._close = weakref.finalize(self, os.close, descriptor)
        if self._reopen is not None:
            POOL.use(self)

    @property
    def descriptor(self) -> int:
        """For immediate use: the number may differ next time. Raises ObjectFileError."""
        with POOL.lock:
            if not self.is_open:
                self._open_again()
            elif self._reopen is not None:
                POOL.use(self)
            return self._descriptor

    @contextmanager
    def _pinned(self) -> Iterator[int]:
        """The descriptor, which stays open until the block ends. Raises ObjectFileError."""
        with POOL.lock:
            descriptor = self.descriptor
            self.pins += 1
        try:
            yield descriptor
        finally:
            with POOL.lock:
                self.pins -= 1

    @property
    def is_open(self) -> bool:
        """Whether it is open at this moment."""
        return self._close.alive

    def let_go(self) -> None:
        """Close it until it is needed again."""
        self._close()

    def _open_again(self) -> None:
        assert self._reopen is not None  # only such files are closed
        try:
            descriptor = self._reopen()
        except OSError as error:
            raise ObjectFileError(f"{self._lost}: {error.strerror}") from error
        except ObjectFileError as error:
            raise ObjectFileError(f"{self._lost}: {error.message}") from error
        if _stamp(os.fstat(descriptor)) != self.stamp:
            os.close(descriptor)
            raise ObjectFileError(f"{self._lost}: it has changed")
        self._hold(descriptor)

    @property
    def _lost(self) -> str:
        return f"{self._shown} was closed to open other files (ulimit -n) and can't be opened again"

    def read(self, offset: int, size: int) -> bytes:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ObjectFileError(f"{self._shown} is truncated: {size:,} bytes at {offset:#x}")
        pieces: list[bytes] = []
        with self._pinned() as descriptor:
            while size > 0:
                try:
                    piece = os.pread(descriptor, min(size, 1 << 30), offset)
                except OSError as error:
                    problem = f"{self._shown} can't be read: {error.strerror}"
                    raise ObjectFileError(problem) from error
                if not piece:
                    raise ObjectFileError(f"{self._shown} was truncated while it was read")
                pieces.append(piece)
                offset += len(piece)
                size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class MemorySource:
    """Bytes in memory."""

    def __init__(self, data: bytes, shown: str) -> None:
        self._data = data
        self._shown = shown
        self.size = len(data)
        self.stamp: tuple[int, ...] = ()

    def read(self, offset: int, size: int) -> bytes:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ObjectFileError(f"{self._shown} is truncated: {size:,} bytes at {offset:#x}")
        return self._data[offset : offset + size]
