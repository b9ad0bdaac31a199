"""Compiles the BPF programs of the user mode into a shared library."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from leaktrace.bpf.sources import flags, source_directory, source_text
from leaktrace.process.program import FAULT_FRAGMENTS, FRAGMENTS
from leaktrace.process.walkers import Walker
from walker.cases import TASK_FSBASE

HERE = Path(__file__).resolve().parent

# The program of page fault mode starts walks at any instruction; it is built together with the
# others.
_ALL_FRAGMENTS = (*FRAGMENTS, *(name for name in FAULT_FRAGMENTS if name not in FRAGMENTS))
# An access outside of an object, a shift that is too far and the like end the process.
SANITIZE = (
    "-fsanitize=address,undefined,bounds-strict",  # also of an array at the end of a struct
    "-fno-sanitize-recover=all",
)


def compile_programs(folder: Path, walker: Walker, extra_flags: Sequence[str] = ()) -> Path:
    """The shared library with all programs and their maps, made in `folder` by gcc.

    Raises FileNotFoundError without gcc, CalledProcessError when the text does not compile.
    """
    source, library = folder / f"{walker.name.lower()}.c", folder / f"{walker.name.lower()}.so"
    knobs = {**walker.knobs(), "TASK_FSBASE_OFFSET": TASK_FSBASE}  # the task itself is at 0
    source.write_text('#include "bpf.h"\n' + source_text(_ALL_FRAGMENTS))
    common = ["gcc", "-std=gnu11", "-O0", "-g", "-fPIC", *extra_flags, f"-I{HERE}"]
    # bcc's compiler shows the warnings of the text; gcc knows neither its pragmas nor its casts.
    include = f"-I{source_directory() / 'include'}"
    program, runtime = folder / "program.o", folder / "runtime.o"
    subprocess.run([*common, include, "-w", *flags(knobs), "-c", source, "-o", program], check=True)
    warnings = ("-Wall", "-Wextra", "-Werror")
    subprocess.run([*common, *warnings, "-c", HERE / "runtime.c", "-o", runtime], check=True)
    subprocess.run(["gcc", *extra_flags, "-shared", program, runtime, "-o", library], check=True)
    return library
