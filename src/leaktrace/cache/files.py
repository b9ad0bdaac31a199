"""Files that are kept from run to run. Each appears complete or not; the least recently used
ones are removed first.

No method raises an error: without a usable cache, callers make again what would be in it. Callers
check the contents of a file: this user wrote it, but the disk may have been full or faulty.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from leaktrace.cache.directory import UnusableCacheError, open_cache, open_kept, open_new

_TEMPORARY_PREFIX = ".new-"
_TEMPORARY_LIFETIME_S = 3600  # older ones were left behind by a process that was killed


class FileCache:
    """The files of one purpose, at most `limit_bytes` in all.

    `home` is the user's cache directory; None turns caching off. `problem` says why the cache could
    not be used when it was last tried, "" if it could.
    """

    def __init__(self, home: Path | None, purpose: str, suffix: str, limit_bytes: int) -> None:
        """`purpose` is the name of the directory; the names of its files end with `suffix`."""
        self._home = home
        self._limit_bytes = limit_bytes
        self.problem = "" if home else "no cache directory"
        self._purpose = purpose
        self._suffix = suffix

    def is_empty(self) -> bool:
        """Whether it contains no file, or can't be read."""
        if self._home is None:
            return True
        with (
            self._problems_noted(),
            open_cache(self._home, self._purpose, create=False) as folder,
            os.scandir(folder) as entries,
        ):
            return not any(entry.name.endswith(self._suffix) for entry in entries)
        return True

    def read(self, name: str) -> bytes | None:
        """The bytes that are kept under a name; None if there are none."""
        if self._home is None:
            return None
        with self._problems_noted(), open_cache(self._home, self._purpose, create=False) as folder:
            # Read, not mapped: truncating a mapped file kills its readers with SIGBUS.
            with os.fdopen(open_kept(folder, name + self._suffix), "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                data = file.read(size) if size <= self._limit_bytes else b""
                with suppress(OSError):
                    os.utime(file.fileno())  # mark it as used for _evict
            return data
        return None

    def write(self, name: str, data: bytes) -> None:
        """Keep bytes under a name. Other processes may do the same at the same time."""
        if self._home is None or len(data) > self._limit_bytes:
            return
        with self._problems_noted(), open_cache(self._home, self._purpose, create=True) as folder:
            temporary = f"{_TEMPORARY_PREFIX}{secrets.token_hex(8)}"
            descriptor = open_new(folder, temporary)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                os.rename(temporary, name + self._suffix, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise
            self._evict(folder)

    def remove(self, name: str) -> None:
        """Remove a file, which turned out to be damaged."""
        if self._home is None:
            return
        with self._problems_noted(), open_cache(self._home, self._purpose, create=False) as folder:
            os.unlink(name + self._suffix, dir_fd=folder)

    @contextmanager
    def _problems_noted(self) -> Iterator[None]:
        """Turn errors into `problem`: a file is not read or not kept then."""
        self.problem = ""
        try:
            yield
        except FileNotFoundError:
            pass  # nothing is kept yet, or another process removed it
        except (OSError, UnusableCacheError) as error:
            self.problem = str(error)

    def _evict(self, folder: int) -> None:
        """Remove the least recently used files until the others fit. Other processes may do the
        same at the same time."""
        kept: list[tuple[float, int, str]] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if entry.name.startswith(_TEMPORARY_PREFIX):
                    if time.time() - status.st_mtime > _TEMPORARY_LIFETIME_S:
                        kept.append((0, status.st_size, entry.name))
                elif entry.name.endswith(self._suffix):
                    kept.append((status.st_mtime, status.st_size, entry.name))
        total = sum(size for _, size, _ in kept)
        for used, size, name in sorted(kept):
            if used and total <= self._limit_bytes:
                break
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
            total -= size
