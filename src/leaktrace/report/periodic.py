"""Reports in files whose names have the time in them: --output 'leak-%H%M.json', --keep.

A new name begins a new file. A file appears under its name when a report is whole: it is written
beside (a hidden name in the same folder) and renamed. Further reports of the same name are added by
writing the file anew, while it is small; a larger one is appended to, a whole report at a time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from leaktrace.errors import UsageError
from leaktrace.report.delivery import Destination, Message

# Those of strftime(3) that mean the same everywhere and make no slash.
_DIRECTIVES = "YmdHMSjyaAbBpIVGuwUWzZsFf%"
_MOST_COPIED_BYTES = 16 << 20


def has_time(path: Path) -> bool:
    """Whether the name of this file is a pattern."""
    return "%" in path.name


def check_pattern(path: Path) -> None:
    """Raises UsageError for a pattern that is none of a time, or not in the file's name alone."""
    if "%" in str(path.parent):
        raise UsageError(
            f"--output {path}: the time can be in the name of the file, not of its folder",
            "write the time after the last slash, or put the files in one folder",
        )
    for found in re.finditer(r"%(.?)", path.name):
        if not found[1] or found[1] not in _DIRECTIVES:
            raise UsageError(
                f"--output {path}: {found[0]} is no part of a time",
                "for example: 'leak-%Y%m%d-%H%M%S.json', as in date(1); %% is a percent sign",
            )


class PeriodicFiles(Destination):
    """Writes each message to the file of its time."""

    def __init__(
        self,
        pattern: Path,
        keep: int | None = None,
        now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        """`keep`: how many files that it has made it keeps; None: all. Raises UsageError, and
        OSError when the folder can't be written."""
        super().__init__(str(pattern))
        check_pattern(pattern)
        self._pattern = pattern
        self._keep = keep
        self._now = now
        self._path: Path | None = None
        self._made: dict[Path, tuple[int, int, int]] = {}  # the oldest first
        beside = self._beside(pattern)
        os.close(_created(beside))  # whether that is possible is known before tracing begins
        beside.unlink()

    def put(self, message: Message) -> None:
        path = self._pattern.with_name(self._now().strftime(self._pattern.name))
        try:
            if path == self._path and self._is_ours(path):
                self._add(path, message)
            else:
                self._replace(path, b"", message.data)
                self._made.pop(path, None)
            self._path = path
            self._made[path] = _identity(path)
            self._remove_old()
            self._failure = None
        except OSError as error:
            self._failed(message, error)
        self._tell_failure()

    def finish(self, is_ending: Callable[[], bool]) -> None:
        self._raise_failure()

    def _add(self, path: Path, message: Message) -> None:
        size = path.stat().st_size
        if size <= _MOST_COPIED_BYTES and not message.call_count:
            self._replace(path, path.read_bytes(), message.data)
            return
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if _identity_of(os.fstat(descriptor)) != self._made[path]:
                raise FileExistsError(errno.EEXIST, "it was replaced by another file", str(path))
            try:
                _write_all(descriptor, message.data)
            except OSError:
                os.ftruncate(descriptor, size)
                self._made[path] = _identity_of(os.fstat(descriptor))  # it is still ours
                raise
        finally:
            os.close(descriptor)

    def _replace(self, path: Path, before: bytes, data: bytes) -> None:
        beside = self._beside(path)
        try:
            descriptor = _created(beside)
            try:
                _write_all(descriptor, before)
                _write_all(descriptor, data)
            finally:
                os.close(descriptor)
            beside.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise

    @staticmethod
    def _beside(path: Path) -> Path:
        return path.with_name(f".leaktrace-{os.getpid()}.part")

    def _is_ours(self, path: Path) -> bool:
        try:
            return self._made.get(path) == _identity(path)
        except FileNotFoundError:
            return False

    def _remove_old(self) -> None:
        while self._keep is not None and len(self._made) > self._keep:
            oldest = next(iter(self._made))
            if self._is_ours(oldest):
                oldest.unlink(missing_ok=True)
            del self._made[oldest]


def _identity(path: Path) -> tuple[int, int, int]:
    """Device, inode and time of the last change: the inode of a removed file is used again."""
    return _identity_of(path.lstat())


def _identity_of(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _created(beside: Path) -> int:
    """A new file, open for writing. A leftover of that name is of a run that was killed."""
    beside.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(beside, flags, 0o666)


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
