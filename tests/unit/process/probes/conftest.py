"""Fixtures for tests of points."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from assembled import SIGNATURES, Finder, Found

from leaktrace.abi.process import Function
from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.process.probes.code.flow import UnfollowableError
from leaktrace.process.probes.find_points import PointFinder
from leaktrace.unwind.table import compile_object


@pytest.fixture
def found_in(tmp_path: Path) -> Finder:
    """Assemble code, and find the points of its function `malloc`."""

    def find(
        body: str,
        function: Function = Function.MALLOC,
        name: str = "malloc",
        before: Sequence[str] = (),
    ) -> Found:
        """`before`: functions like malloc that are analysed first."""
        (tmp_path / "code.s").write_text(f"    .text\n{body}\n")
        library = tmp_path / "code.so"
        command = ["gcc", "-shared", "-nostdlib", "-o", str(library), str(tmp_path / "code.s")]
        subprocess.run(command, check=True)
        listing = subprocess.run(
            ["nm", library], capture_output=True, text=True, check=True
        ).stdout.split("\n")
        rows = [line.split() for line in listing if len(line.split()) == 3]
        labels = {row[2]: int(row[0], 16) for row in rows}
        hooked = {labels[name]: SIGNATURES[function]}
        if "realloc" in labels and name != "realloc":
            hooked[labels["realloc"]] = SIGNATURES[Function.REALLOC]
        with ElfObject.open(library) as elf:
            try:
                rules = compile_object(elf)
            except ObjectFileError:
                rules = None
            hooked |= {labels[other]: SIGNATURES[function] for other in before}
            finder = PointFinder(elf, hooked, {"realloc": SIGNATURES[Function.REALLOC]}, rules)
            for other in before:
                with suppress(UnfollowableError):
                    finder.find(labels[other])
            return Found(finder.find(labels[name]), labels)

    return find
