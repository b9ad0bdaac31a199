"""The files that a program will map, according to the dynamic loader that it names."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from leaktrace.process.probes import program_files
from leaktrace.process.probes.program_files import objects_of_program

Build = Callable[[Path], Path]


@pytest.fixture
def build(tmp_path: Path, require_tool: Callable[[str], str]) -> Build:
    """A function that makes a program whose dynamic loader is the given file."""
    compiler = require_tool("gcc")

    def made(loader: Path) -> Path:
        source, program = tmp_path / "main.c", tmp_path / "program"
        source.write_text("int main(void) { return 0; }\n")
        subprocess.run(
            [compiler, source, "-o", program, f"-Wl,--dynamic-linker={loader}"], check=True
        )
        return program

    return made


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_loader_of_the_system(tmp_path: Path) -> None:
    python = shutil.which("sleep")
    assert python
    program, *libraries = objects_of_program(python)
    assert program == python
    assert [path for path in libraries if "/libc.so" in path or "/libc-" in path]


def test_a_library_whose_name_is_no_utf_8(tmp_path: Path, build: Build) -> None:
    library = tmp_path / os.fsdecode(b"lib\xff\xfe.so")
    library.touch()
    loader = script(
        tmp_path / "loader", f"printf '\\tx.so => {tmp_path}/lib\\377\\376.so (0x7f00)\\n'"
    )
    program = build(loader)
    assert list(objects_of_program(str(program))) == [str(program), str(library)]


def test_a_loader_that_can_not_be_run(tmp_path: Path, build: Build) -> None:
    loader = tmp_path / "loader"
    program = build(loader)
    assert list(objects_of_program(str(program))) == [str(program)]  # it isn't there
    loader.write_bytes(b"no program")
    assert list(objects_of_program(str(program))) == [str(program)]  # it isn't executable
    loader.chmod(0o755)
    assert list(objects_of_program(str(program))) == [str(program)]  # it is of no known format


def test_a_loader_whose_name_is_too_long(build: Build) -> None:
    program = build(Path("/" + 300 * "x"))
    assert list(objects_of_program(str(program))) == [str(program)]


def test_a_loader_that_never_answers(
    tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program_files, "_LOADER_DEADLINE_S", 0.1)
    program = build(script(tmp_path / "loader", "exec sleep 60"))
    assert list(objects_of_program(str(program))) == [str(program)]
