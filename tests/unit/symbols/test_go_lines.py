"""Lines and inlined functions of Go code without debug information, compared with the DWARF of the
same program."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from harness.compiling import PROGRAMS
from harness.go_programs import build_go_program

from leaktrace.elf.object import ElfObject
from leaktrace.options import SymbolOptions
from leaktrace.site import Frame
from leaktrace.symbols.debug_information import LookupContext
from leaktrace.symbols.module import Module


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A program with DWARF, and without. Their code is the same."""
    directory, source = tmp_path_factory.mktemp("go"), PROGRAMS / "goroutines.go"
    whole = build_go_program(directory / "whole", source=source)
    stripped = build_go_program(directory / "stripped", "-ldflags=-s -w", source=source)
    return whole, stripped


def addresses(program: Path, function: str) -> list[int]:
    """Where `objdump` finds calls in a function: behind each."""
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", f"--disassemble={function}", program],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = re.findall(r"^ *([0-9a-f]+):\s+call[^\n]*\n *([0-9a-f]+):", text, re.M)
    return [int(behind, 16) for _, behind in found]


def frames(module: Module, vaddr: int) -> tuple[Frame, ...]:
    return module.frames(vaddr, vaddr, True)


def test_lines_are_those_of_the_debug_information(built: tuple[Path, Path]) -> None:
    whole, stripped = built
    context = LookupContext.of(SymbolOptions(lines=True, inlines=True))
    compared = inlined = 0
    with ElfObject.open(whole) as one, ElfObject.open(stripped) as other:
        assert not other.has_symbol_table()
        modules = [Module(elf, elf.shown, (), context) for elf in (one, other)]
        for function in (
            "main.main",
            "main.stuck",
            "main.starts",
            "main.starts.func1",
            "main.churn",
        ):
            for vaddr in addresses(whole, function):
                expected, ours = (
                    [(f.function, f.source, f.inlined) for f in frames(module, vaddr)]
                    for module in modules
                )
                assert ours == expected
                assert ours[-1][0] == function
                compared += 1
                inlined += len(ours) > 1
        assert not modules[1].problem
    assert compared > 40
    assert inlined
