"""Builds programs of Go with C code, with a build cache that all tests share: Go first
compiles its whole library for each kind of program."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from distribution import cache_directory

from harness.compiling import PROGRAMS


def build_go_program(
    output: Path,
    *flags: str,
    source: Path = PROGRAMS / "calls_from_go.go",
    go: str | Path = "go",
    env: Mapping[str, str] | None = None,
) -> Path:
    """Returns `output`; skips the test without Go. `go`: which one."""
    if shutil.which(go) is None:
        pytest.skip("needs go")
    subprocess.run(
        [go, "build", *flags, "-o", output, source],
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
