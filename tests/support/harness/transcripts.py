"""The examples' READMEs: reports that were printed, and the same sites in what is printed now."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.tracer import REPOSITORY, Outcome, run_leaktrace

_SITE = re.compile(
    r"^ +(?:[a-z]+ +)?([\d.]+ \w+) +[<>]?\d+% +([\d,]+) allocations? .*\n((?: {4}.*\n?)+)",
    re.MULTILINE,
)
_FRAME = re.compile(r"^ {4}(\S.*?)\+0x[0-9a-f]+(.*)\[(\S+)\]$", re.MULTILINE)
_COMMAND = re.compile(r"^ +sudo leaktrace (.*)$", re.MULTILINE)
_QUOTED = re.compile(r"^(\d+) {2}( *\S.*)$", re.MULTILINE)

Sites = set[tuple[str, str, tuple[str, ...]]]


def sites_in(text: str, *, only: str = "", lines: bool = True) -> Sites:
    """Size, count and frames of each site: function, module and, with `lines`, file and line.
    `only`: no frames of other modules than this, because those differ by distribution."""
    return {
        (size, count, tuple(_frames_in(frames, only, lines)))
        for size, count, frames in _SITE.findall(text)
    }


def _frames_in(text: str, only: str, lines: bool) -> list[str]:
    """A long name may have a line of its own. A path may be shortened, so its file is compared."""
    found = _FRAME.findall(re.sub(r"\n {20,}", " ", text))
    return [
        " ".join((function, *place.rpartition("/")[2].split()[: int(lines)], module))
        for function, place, module in found
        if only in ("", module)
    ]


def built(name: str, folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Path:
    """A copy of an example in this folder, built there by `make` with these arguments."""
    copy = folder / name
    shutil.copytree(REPOSITORY / "examples" / name, copy)
    for target in (["clean"], arguments):
        subprocess.run(["make", "-C", copy, *target], check=True, env=env)
    return copy


def replay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Outcome]:
    """The README in this folder, and what its command prints there now."""
    readme = (folder / "README.md").read_text(encoding="utf-8")
    (command,) = _COMMAND.findall(readme)
    monkeypatch.chdir(folder)
    return readme, run_leaktrace(*shlex.split(command))


def quoted_lines(readme: str) -> dict[int, str]:
    """The lines of source code that a README quotes, by their numbers."""
    return {int(number): code for number, code in _QUOTED.findall(readme)}
