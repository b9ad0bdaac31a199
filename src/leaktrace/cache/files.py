"""Files kept from run to run: each appears whole or not at all, and the longest unused go first.

Nothing here fails: without a usable cache, what would be in it is made again. What a file holds is
for its user to check: it is ours, but a disk may be full or faulty.
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
_TEMPORARY_LIFETIME_S = 3600  # older ones were left by a process that was killed


class FileCache:
    """The files of one purpose, at most `limit_bytes` of them.

    `home` is the directory that holds all caches of the user; None switches caching off.
    `problem` says why the cache could not be used last time it was tried, "" when it could.
    """

    def __init__(self, home: Path | None, purpose: str, suffix: str, limit_bytes: int) -> None:
        """`purpose` names our directory in it, `suffix` ends the names of our files."""
        self._home = home
        self._limit_bytes = limit_bytes
        self.problem = "" if home else "no cache directory"
        self._purpose = purpose
        self._suffix = suffix

    def is_empty(self) -> bool:
        """Whether nothing was ever kept, as far as can be told."""
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
        """The bytes that were kept under a name; None where there are none."""
        if self._home is None:
            return None
        with self._problems_noted(), open_cache(self._home, self._purpose, create=False) as folder:
            # Read, not mapped: a mapped file that somebody truncates kills the reader.
            with os.fdopen(open_kept(folder, name + self._suffix), "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                data = file.read(size) if size <= self._limit_bytes else b""
                with suppress(OSError):
                    os.utime(file.fileno())  # it was used: see _evict
            return data
        return None

    def write(self, name: str, data: bytes) -> None:
        """Keep bytes under a name, whoever else is keeping the same."""
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
        """Forget a file that turned out to be damaged."""
        if self._home is None:
            return
        with self._problems_noted(), open_cache(self._home, self._purpose, create=False) as folder:
            os.unlink(name + self._suffix, dir_fd=folder)

    @contextmanager
    def _problems_noted(self) -> Iterator[None]:
        """Whatever goes wrong inside is no more than something that isn't kept."""
        self.problem = ""
        try:
            yield
        except FileNotFoundError:
            pass  # nothing was stored yet, or another process removed it
        except (OSError, UnusableCacheError) as error:
            self.problem = str(error)

    def _evict(self, folder: int) -> None:
        """Remove the files longest unused until the rest fits; other processes may do the same."""
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
