"""Compiles the target programs, each at most once per test run for the same flags."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).resolve().parents[2] / "programs"
COMMON_FLAGS = ("-O2", "-g", "-Wall", "-D_GNU_SOURCE", "-pthread")


class Compiler:
    """Builds programs from tests/programs into one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._built: dict[tuple[str, ...], Path] = {}

    @staticmethod
    def source(name: str) -> Path:
        """The source file of a program."""
        return PROGRAMS / name

    def __call__(self, source: str, *flags: str, compiler: str = "") -> Path:
        """The path of the program made from `source`; skips the test without a compiler."""
        compiler = compiler or ("g++" if source.endswith(".cpp") else "gcc")
        key = (compiler, source, *flags)
        if key in self._built:
            return self._built[key]
        if shutil.which(compiler) is None:
            pytest.skip(f"{compiler} is not installed")
        digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:8]
        output = self._directory / f"{Path(source).stem}-{digest}"
        subprocess.run(
            [compiler, *COMMON_FLAGS, *flags, str(PROGRAMS / source), "-o", str(output)],
            check=True,
            timeout=120,
        )
        self._built[key] = output
        return output


def prefixed_allocator(compiled: Compiler, linking: str, *flags: str) -> Path:
    """A program whose allocator has a prefix, in a library ("shared") or in itself ("static")."""
    source = "prefixed_allocator.c"
    if linking == "static":
        return compiled(source, *flags, "-DPROGRAM", "-DLIBRARY")
    library = compiled(source, *flags, "-DLIBRARY", "-shared", "-fPIC")
    return compiled(source, *flags, "-DPROGRAM", "-Wl,--no-as-needed", str(library))
