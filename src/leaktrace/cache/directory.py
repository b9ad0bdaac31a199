"""Opens directories below the user's cache directory, to which other users may be able to write.

Under sudo, $HOME may be another user's home. As root, leaktrace creates nothing there, follows no
symbolic link on the path and reads no file that another user could have created.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from leaktrace.files import open_regular

_OURS = "leaktrace"
_FOREIGN_WRITE = stat.S_IWGRP | stat.S_IWOTH


class UnusableCacheError(Exception):
    """Why a directory or file of the cache can't be trusted, in one line. Callers continue without
    the cache."""


def user_cache_directory() -> Path | None:
    """$XDG_CACHE_HOME, or ~/.cache (XDG Base Directory Specification); None without a home."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    if configured.startswith("/"):  # the specification says to ignore relative paths
        return Path(configured)
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return None


@contextmanager
def open_cache(home: Path, *purpose: str, create: bool) -> Iterator[int]:
    """A descriptor of the directory home/leaktrace/purpose…. `create`: make missing directories.

    Raises OSError and UnusableCacheError.
    """
    descriptor = _open_directory(home, (_OURS, *purpose), create=create)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_kept(directory: int, name: str) -> int:
    """A descriptor, for reading, of a regular file that belongs to this user. Raises OSError and
    UnusableCacheError."""
    descriptor = open_regular(name, directory=directory, follow=False)
    try:
        _check_owner(os.fstat(descriptor), stat.S_ISREG, name)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_new(directory: int, name: str) -> int:
    """A descriptor, for reading and writing, of a new file. Raises OSError, also if the file
    exists."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, mode=0o600, dir_fd=directory)


def _open_directory(home: Path, below: tuple[str, ...], *, create: bool) -> int:
    """Open a directory below `home`, component by component.

    For root, the whole path must belong to root and contain no symbolic links, so that no other
    user decides where root writes. For other users, the part below the cache directory must be
    theirs.
    """
    is_root = os.geteuid() == 0
    start = home if is_root else Path(os.path.realpath(home))
    parts = [*start.parts[1:], *below]
    descriptor = os.open(start.parts[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for depth, part in enumerate(parts):
            ours = depth >= len(parts) - len(below)
            may_make = create and depth >= len(start.parts) - 2  # the cache directory and below
            if may_make:
                with suppress(FileExistsError):
                    os.mkdir(part, mode=0o700, dir_fd=descriptor)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner = os.open(part, flags, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
            if ours or is_root:
                _check_owner(os.fstat(descriptor), stat.S_ISDIR, part)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_owner(status: os.stat_result, is_kind: Callable[[int], bool], shown: str) -> None:
    """Raises UnusableCacheError if another user could have created the file or directory."""
    if not is_kind(status.st_mode):
        raise UnusableCacheError(f"{shown} in the cache is not the expected type of file")
    others_may_write = status.st_mode & _FOREIGN_WRITE
    is_sticky_directory = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if status.st_uid != os.geteuid() or (others_may_write and not is_sticky_directory):
        raise UnusableCacheError(
            f"{shown} in the path of the cache belongs to another user, or others may write to it"
        )
