"""Fixtures for tests of points."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from assembled import SIGNATURES, Finder, Found, Make

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


@pytest.fixture
def make(tmp_path: Path, require_tool: Callable[[str], str]) -> Make:
    """A function that makes a shared object which defines some functions and calls others."""
    compiler = require_tool("gcc")
    made = 0

    def compiled(*defined: str, called: tuple[str, ...] = (), extra: str = "") -> Path:
        nonlocal made
        made += 1
        # Each has a different length, so that the linker can't merge two.
        lines = [
            f'void *f{n}(long) __asm__("{name}"); void *f{n}(long x) {{ return (char *)x + {n}; }}'
            for n, name in enumerate(defined)
        ]
        lines += [f'void *c{n}(long) __asm__("{name}");' for n, name in enumerate(called)]
        calls = "".join(f"c{n}({n});" for n in range(len(called)))
        lines.append(f"void caller_{made}(void) {{ {calls} }} {extra}")
        source, output = tmp_path / "object.c", tmp_path / f"lib{made}.so"
        source.write_text("\n".join(lines))
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", "-o", output, source, "-fno-builtin", "-w"],
            check=True,
        )
        return output

    return compiled
