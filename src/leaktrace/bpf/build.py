"""Compiled programs: from the cache, or compiled in a child process.

Compiling takes most of the start-up time. The result depends on the source, the knobs, bcc and the
kernel, and is cached under a hash of all of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from leaktrace.bpf.compiler_child import find_bcc
from leaktrace.bpf.compiler_process import CompilerChild
from leaktrace.bpf.image import Image
from leaktrace.bpf.sources import flags, source_directory, source_text
from leaktrace.cache.directory import user_cache_directory
from leaktrace.cache.files import FileCache

_LIMIT_BYTES = 16 << 20  # some hundred programs: compressed, one takes 20 to 60 KB
_FORMAT_VERSION = 2  # of the cached files
_LIBRARY_FOLDERS = ("usr/lib", "usr/lib64", "usr/local/lib", "usr/lib/*-linux-gnu")
_LIBRARIES = ("libbcc.so*", "libLLVM*.so*", "libclang-cpp*.so*")


class ImageRequest:
    """A program, from the cache or compiled in a child process while the tracer does other work."""

    def __init__(self, fragments: Sequence[str], knobs: Mapping[str, int]) -> None:
        source, given = source_text(fragments), flags(knobs)
        self._cache = _cache()
        self._name = _digest(source, given)
        self._image = self._cached()
        self._child: CompilerChild | None = None
        if self._image is None:
            self._child = CompilerChild.take()
            self._child.request(
                {"source": source, "kernel_source": str(source_directory()), "flags": given}
            )

    def _cached(self) -> Image | None:
        data = self._cache.read(self._name)
        if data is None:
            return None
        checksum, _, compressed = data.partition(b"\n")
        if checksum == _checksum(compressed):
            with contextlib.suppress(ValueError, zlib.error):
                return Image.from_json(zlib.decompress(compressed))
        self._cache.remove(self._name)
        return None

    def finish(self) -> Image:
        """Wait for the child, if there is one.

        Raises EnvironmentUnfitError when bcc is missing or lacks permission, ProgramError when the
        program doesn't compile.
        """
        if self._child is not None:
            self._image = Image.from_json(self._child.finish())
            self._child = None
            compressed = zlib.compress(self._image.to_json())
            self._cache.write(self._name, _checksum(compressed) + b"\n" + compressed)
        assert self._image is not None
        return self._image

    @property
    def problem(self) -> str:
        """Why the cache could not be used the last time, "" if it could."""
        return self._cache.problem

    def abandon(self) -> None:
        """Abandon the compilation, because something else failed."""
        if self._child is not None:
            self._child.abandon()
            self._child = None


@contextlib.contextmanager
def compiler_started_early() -> Iterator[None]:
    """If nothing is cached, load the compiler in a child process while this process imports its own
    modules."""
    if not _cache().is_empty():
        yield
        return
    with CompilerChild.started_early():
        yield


def _cache() -> FileCache:
    return FileCache(user_cache_directory(), "programs", ".image", _LIMIT_BYTES)


def _digest(source: str, given: Sequence[str]) -> str:
    """A hash of everything that the compiler's output depends on."""
    headers = sorted((source_directory() / "include").rglob("*.h"))
    machine = os.uname()
    parts = [
        _FORMAT_VERSION,
        source,
        given,
        [header.read_text() for header in headers],
        [machine.machine, machine.release, machine.version],
        _compiler_identity(),
    ]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=20).hexdigest()


def _compiler_identity() -> list[list[object]]:
    """Path, size and modification time of bcc's Python package and of the libraries it may load."""
    patterns = [f"{folder}/{name}" for folder in _LIBRARY_FOLDERS for name in _LIBRARIES]
    files = [path for pattern in patterns for path in Path("/").glob(pattern)]
    package = find_bcc()
    if package is not None:
        files.append(package / "__init__.py")
    identity: list[list[object]] = []
    for path in sorted(files):
        with contextlib.suppress(OSError):
            status = path.stat()
            identity.append([str(path), status.st_size, status.st_mtime_ns])
    return identity


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).hexdigest().encode()
