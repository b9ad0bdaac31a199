"""Builds tests/programs/calls_from_go.go, with a build cache that all tests share: Go first
compiles its whole library for each kind of program."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from distribution import cache_directory

from harness.compiling import PROGRAMS


def build_go_program(output: Path, *flags: str) -> Path:
    """Returns `output`; skips the test without Go."""
    if shutil.which("go") is None:
        pytest.skip("needs go")
    subprocess.run(
        ["go", "build", *flags, "-o", output, PROGRAMS / "calls_from_go.go"],
        check=True,
        env={**os.environ, "GOCACHE": str(cache_directory() / "go"), "GO111MODULE": "off"},
    )
    return output
