"""Builds the program of all cases, and the library that one of them opens."""

from __future__ import annotations

import subprocess
from pathlib import Path

from corpus.cases import PROGRAMS

# An unrolled loop would make several call sites of one.
FLAGS = (
    *("-O1", "--param=max-completely-peel-times=0", "-fno-inline", "-g"),
    *("-Wall", "-Wextra", "-D_GNU_SOURCE", "-pthread"),
)
LIBRARY = "late_library.c"


def build(directory: Path) -> Path:
    """The path of the program. Raises CalledProcessError if it can't be built."""
    directory.mkdir(parents=True, exist_ok=True)
    objects = []
    for source in sorted(PROGRAMS.glob("*.c*")):
        if source.name == LIBRARY:
            continue
        compiler = "g++" if source.suffix == ".cpp" else "gcc"
        objects.append(directory / f"{source.stem}.o")
        _run(compiler, *FLAGS, "-c", source, "-o", objects[-1])
    program = directory / "verdict_case"
    _run("g++", "-pthread", *objects, "-o", program, "-lm", "-ldl")
    library = directory / LIBRARY.replace(".c", ".so")
    _run("gcc", *FLAGS, "-shared", "-fPIC", PROGRAMS / LIBRARY, "-o", library)
    return program


def _run(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True, timeout=120)
