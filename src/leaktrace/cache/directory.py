"""The directories below the user's cache directory, opened without trusting who else writes there.

Run by sudo, leaktrace may find another user's home in $HOME. Root makes nothing there, follows no
link on the way and reads no file that somebody else could have put there.
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
    """Why a directory or file of the cache can't be trusted, one line. Callers go without it."""


def user_cache_directory() -> Path | None:
    """$XDG_CACHE_HOME, or ~/.cache (XDG Base Directory Specification); None without a home."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    if configured.startswith("/"):  # relative ones are to be ignored
        return Path(configured)
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return None


@contextmanager
def open_cache(home: Path, *purpose: str, create: bool) -> Iterator[int]:
    """A descriptor of home/leaktrace/purpose…, which is made where `create` says so.

    Raises OSError and UnusableCacheError.
    """
    descriptor = _open_directory(home, (_OURS, *purpose), create=create)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_kept(directory: int, name: str) -> int:
    """A descriptor, for reading, of a plain file that is ours. Raises OSError and
    UnusableCacheError."""
    descriptor = open_regular(name, directory=directory, follow=False)
    try:
        _check_owner(os.fstat(descriptor), stat.S_ISREG, name)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_new(directory: int, name: str) -> int:
    """A descriptor, for reading and writing, of a file that wasn't there. Raises OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, mode=0o600, dir_fd=directory)


def _open_directory(home: Path, below: tuple[str, ...], *, create: bool) -> int:
    """Open a directory below `home`, component by component.

    For root the whole path must be root's and free of links, so that nobody else decides where
    root writes; for others, the part below their cache directory must be theirs.
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
    """Refuse what somebody else could have put there. Raises UnusableCacheError."""
    if not is_kind(status.st_mode):
        raise UnusableCacheError(f"{shown} in the cache is of an unexpected kind")
    others_may_write = status.st_mode & _FOREIGN_WRITE
    is_sticky_directory = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if status.st_uid != os.geteuid() or (others_may_write and not is_sticky_directory):
        raise UnusableCacheError(f"{shown} in the path of the cache belongs to somebody else")
