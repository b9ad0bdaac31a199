"""examples/cgo does what its README shows."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from distribution import cache_directory
from harness.tracer import run_leaktrace

pytestmark = pytest.mark.usefixtures("require_bpf")

SITE = re.compile(r"^ +([\d.]+ \w+) +\d+% +(\d+) allocations? .*\n((?: {4}.*\n?)+)", re.M)
Shown = set[tuple[str, str, tuple[str, ...]]]


def sites_in(text: str) -> Shown:
    """Size, count and functions of each site, and of each frame the module."""
    return {(size, count, tuple(frames_in(lines))) for size, count, lines in SITE.findall(text)}


def frames_in(lines: str) -> list[str]:
    """A long name may have a line of its own."""
    found = re.findall(r"^ {4}(\S+)\+0x.*?\[(\S+)\]$", re.sub(r"\n {20,}", " ", lines), re.M)
    return [f"{re.sub('_cgo_[0-9a-f]{12}', '_cgo', name)} {module}" for name, module in found]


def test_the_transcript(
    tmp_path: Path,
    repository: Path,
    require_tool: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require_tool("go")
    folder = tmp_path / "cgo"
    shutil.copytree(
        repository / "examples/cgo", folder, ignore=shutil.ignore_patterns("sums", "*.so")
    )
    environment = {**os.environ, "GOCACHE": str(cache_directory() / "go")}
    subprocess.run(["make", "-C", folder], check=True, env=environment)
    readme = (folder / "README.md").read_text()
    expected = sites_in(readme)
    assert len(expected) == 2
    (command,) = re.findall(r"^ +sudo leaktrace (.*)$", readme, re.M)
    monkeypatch.chdir(folder)
    outcome = run_leaktrace(*shlex.split(command))
    assert outcome.exit_code == 0
    assert sites_in(outcome.stdout) == expected
    assert {frame for _, _, frames in expected for frame in frames[:1]} == {"add libadd.so"}
