"""Where a compiled program comes from: kept from an earlier run, or the compiler's child.

Compiling takes most of leaktrace's start. What it gives depends on the source, the knobs, bcc and
the kernel, and is kept under a hash of all of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from leaktrace.bpf.compiler import CompilerChild
from leaktrace.bpf.compiler_child import find_bcc
from leaktrace.bpf.image import Image
from leaktrace.cache.directory import user_cache_directory
from leaktrace.cache.files import FileCache
from leaktrace.errors import ProgramError

_LIMIT_BYTES = 16 << 20
_FORMAT_VERSION = 1  # of what the child answers
_LIBRARY_FOLDERS = ("usr/lib", "usr/lib64", "usr/local/lib", "usr/lib/*-linux-gnu")
_LIBRARIES = ("libbcc.so*", "libLLVM*.so*", "libclang-cpp*.so*")


def source_directory() -> Path:
    """Where the BPF sources are: inside the installed package, or beside src/ in a checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "c", here.parents[2] / "bpf"):
        if (folder / "process" / "types.h").is_file():
            return folder
    raise ProgramError(
        "the BPF sources of leaktrace are missing from its installation",
        "reinstall leaktrace",
    )


def source_text(fragments: Sequence[str]) -> str:
    """The whole program. bcc rewrites map accesses only in its main text, never in an #include,
    so the fragments are joined; `#line` keeps the compiler's messages pointing at them."""
    folder = source_directory()
    parts = ["#include <uapi/linux/ptrace.h>\n"]
    for name in fragments:
        parts.append(f'#line 1 "bpf/{name}"\n{(folder / name).read_text()}')
    return "".join(parts)


def flags(knobs: Mapping[str, int]) -> list[str]:
    """Knobs as the compiler takes them."""
    return [
        f"-D{name}={value}{'ULL' if value > 0x7FFFFFFF else ''}" for name, value in knobs.items()
    ]


class ImageRequest:
    """A program that is wanted: kept already, or compiled in a child while we do something else."""

    def __init__(self, fragments: Sequence[str], knobs: Mapping[str, int]) -> None:
        source, given = source_text(fragments), flags(knobs)
        self._cache = _cache()
        self._name = _digest(source, given)
        self._image = self._kept()
        self._child: CompilerChild | None = None
        if self._image is None:
            self._child = CompilerChild.take()
            self._child.request(
                {"source": source, "kernel_source": str(source_directory()), "flags": given}
            )

    def _kept(self) -> Image | None:
        data = self._cache.read(self._name)
        if data is None:
            return None
        checksum, _, text = data.partition(b"\n")
        if checksum == _checksum(text):
            with contextlib.suppress(ValueError):
                return Image.from_json(text)
        self._cache.remove(self._name)
        return None

    def finish(self) -> Image:
        """Wait for the child, if there is one.

        Raises EnvironmentUnfitError when bcc is missing or not permitted to work, ProgramError when
        the program doesn't compile.
        """
        if self._child is not None:
            self._image = Image.from_json(self._child.finish())
            self._child = None
            text = self._image.to_json()
            self._cache.write(self._name, _checksum(text) + b"\n" + text)
        assert self._image is not None
        return self._image

    @property
    def problem(self) -> str:
        """Why the cache could not be used last time it was tried, "" when it could."""
        return self._cache.problem

    def abandon(self) -> None:
        """Give the compilation up: something else failed meanwhile."""
        if self._child is not None:
            self._child.abandon()
            self._child = None


@contextlib.contextmanager
def compiler_started_early() -> Iterator[None]:
    """Where nothing was compiled before, the compiler is loaded on another core while this process
    imports what it needs itself."""
    if not _cache().is_empty():
        yield
        return
    with CompilerChild.started_early():
        yield


def _cache() -> FileCache:
    return FileCache(user_cache_directory(), "programs", ".image", _LIMIT_BYTES)


def _digest(source: str, given: Sequence[str]) -> str:
    """Of everything that decides what the compiler makes of it."""
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
    """Of bcc's Python package and of the libraries that it may load: path, size and time."""
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


def _checksum(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).hexdigest().encode()
