"""The story in README.md: its commands, what they print there, and the same commands again."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.lines import DEADLINE_S
from harness.tracer import DEFAULT_SIGNALS, REPOSITORY, tracer_environment

HEADING = "## From a trace to the line that leaks"
INTERVALS = " 10 6 "  # of the story: six reports, one every ten seconds
PROGRAM = "shop"
SOURCE = REPOSITORY / "examples/shop.c"
_COMMAND = re.compile(r"^\$ (?:sudo )?(.*)$")


@dataclass(frozen=True)
class Step:
    """A command, and the lines that README.md shows of its output."""

    command: str
    shown: tuple[str, ...]


def steps(heading: str = HEADING) -> list[Step]:
    """Those of the story below a heading, in order."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    story = readme.partition(f"{heading}\n")[2].partition("\n## ")[0]
    found: list[Step] = []
    for line in re.findall(r"^ {4}(.*)$", story, re.MULTILINE):
        command = _COMMAND.match(line)
        if command is not None:
            found.append(Step(command[1], ()))
        else:
            found[-1] = Step(found[-1].command, (*found[-1].shown, line))
    return found


def prepare(folder: Path) -> None:
    """What the commands expect in the folder where they run: the examples, and leaktrace."""
    shutil.copytree(REPOSITORY / "examples", folder / "examples")
    programs = folder / "bin"
    programs.mkdir()
    command = " ".join(map(shlex.quote, (*DEFAULT_SIGNALS, sys.executable, "-m", "leaktrace")))
    (programs / "leaktrace").write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    (programs / "leaktrace").chmod(0o755)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the story in its folder."""
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=tracer_environment({"PATH": path, "PPROF_TMPDIR": str(folder)}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )
