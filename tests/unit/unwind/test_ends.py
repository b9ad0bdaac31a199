"""Where stacks end although no unwind information says so, compared with readelf, nm and
objdump."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from harness.compiling import PROGRAMS
from hypothesis import given
from hypothesis import strategies as st

from leaktrace.abi.process import EndOf, Rule
from leaktrace.elf.object import ElfObject
from leaktrace.unwind.ends import End, find_ends, put_ends
from leaktrace.unwind.rows import PC_SHIFT, Row, describe, pack
from leaktrace.unwind.table import (
    CodeSegment,
    UnwindSource,
    UnwindTable,
    compile_object,
    index_rows,
    with_rows,
)

BASE = 0x400000
MUSL = Path("/lib/ld-musl-x86_64.so.1")


def ends_of(path: Path) -> list[End]:
    with ElfObject.open(path) as elf:
        return find_ends(elf, compile_object(elf))


def stack_ends(path: Path) -> list[End]:
    return [end for end in ends_of(path) if end.of is EndOf.STACK]


def build(folder: Path, source: str, *flags: str, compiler: str = "gcc") -> Path:
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    program = folder / "program"
    common = ("-O2", "-D_GNU_SOURCE", "-pthread")
    command = [compiler, *common, *flags, str(PROGRAMS / source), "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def addresses_of(program: Path, names: str) -> set[int]:
    said = subprocess.run(["nm", program], check=True, capture_output=True, text=True).stdout
    return {int(at, 16) for at in re.findall(rf"^(\w+) \w (?:{names})$", said, re.M)}


def behind_calls_before_exit(path: Path) -> set[int]:
    """The return address of a call by pointer whose result is passed to an exit, from objdump."""
    said = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", path], check=True, capture_output=True, text=True
    ).stdout
    pattern = (
        r"call +\*.*\n +(\w+):\t(?:mov +%[er]ax,%[er]di|movslq +%eax,%rdi)\n"
        r"(?: +\w+:\txor +%eax,%eax\n +\w+:\tmov +\$0x3c,%al\n +\w+:\tsyscall"
        r"| +\w+:\tcall +\w+ <(?:_?exit|_Exit|(?:__)?pthread_exit|thrd_exit)(?:@|>))"
    )
    return {int(at, 16) for at in re.findall(pattern, said)}


# --- what is found ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/usr/bin/python3", "/bin/bash", "/lib64/ld-linux-x86-64.so.2"])
def test_the_entry_point(path: str) -> None:
    said = subprocess.run(["readelf", "-hW", path], check=True, capture_output=True, text=True)
    found = re.search(r"Entry point address: +0x(\w+)", said.stdout)
    assert found is not None
    entry = int(found[1], 16)
    assert [end for end in stack_ends(Path(path)) if end.start <= entry < end.end]


def test_no_more_than_the_entry_of_code_with_unwind_information() -> None:
    assert len(ends_of(Path("/usr/bin/python3"))) == 1


@pytest.mark.may_skip("not every machine has musl")
def test_musl_libc() -> None:
    if not MUSL.exists():
        pytest.skip("needs musl")
    expected = behind_calls_before_exit(MUSL)
    assert len(expected) >= 3  # main, the function of a thread, that of clone
    found = {end.end for end in stack_ends(MUSL) if end.end - end.start == 1}
    assert found == expected


@pytest.mark.may_skip("not every machine has musl")
def test_static_musl(tmp_path: Path) -> None:
    program = build(tmp_path, "outermost.c", "-static", compiler="musl-gcc")
    found = {end.end for end in stack_ends(program) if end.end - end.start == 1}
    assert found == behind_calls_before_exit(program)
    (entry,) = addresses_of(program, "_start")
    assert [end for end in stack_ends(program) if end.start <= entry < end.end]


def test_made_contexts(tmp_path: Path) -> None:
    program = build(tmp_path, "fibers.c", "-static")
    (start,) = addresses_of(program, "__start_context")
    assert End(start - 1, start) in stack_ends(program)


# --- what the table says then ----------------------------------------------------------------

SIZE = 2000
SEGMENT = CodeSegment(0, BASE, SIZE)


def table_of(rules: dict[int, int]) -> UnwindTable:
    """The last row of a table is the one after its last function, where nothing is known."""
    rows = [
        pack(Row(pc, Rule.RULE_RSP, 8 * n, 0)) if n else pc << PC_SHIFT
        for pc, n in {**rules, SIZE: 0}.items()
    ]
    source = UnwindSource("made by hand", (), BASE, (SEGMENT,))
    return index_rows(source, np.array(sorted(rows), dtype=np.uint64), {})


@given(
    st.dictionaries(st.integers(0, SIZE), st.integers(0, 5), min_size=1, max_size=20),
    st.lists(st.integers(0, SIZE), max_size=10, unique=True).map(sorted),
    st.booleans(),
)
def test_what_is_no_end_stays(rules: dict[int, int], cuts: list[int], side_by_side: bool) -> None:
    table = table_of(rules)
    step = 1 if side_by_side else 2
    pairs = zip(cuts[::step], cuts[1::step], strict=False)
    ends = [End(BASE + a, BASE + b, EndOf(a % 2)) for a, b in pairs]
    changed = with_rows(table, put_ends(table, ends)) if ends else table
    for vaddr in range(BASE, BASE + SIZE + 10):
        inside = [end for end in ends if end.start <= vaddr < end.end]
        found, before = changed.lookup(vaddr), table.lookup(vaddr)
        if inside:
            assert found is not None
            assert (found.rule, found.cfa_offset) == (Rule.RULE_END, inside[0].of)
        elif before is None:
            assert found is None or found[1:] == (Rule.RULE_NONE, 0, 0)
        else:
            assert found is not None
            assert found[1:] == before[1:]


def test_ends_in_words() -> None:
    assert describe(pack(Row(16, Rule.RULE_END, EndOf.STACK, 0))) == "0x10: outermost frame"
    assert "called by Go" in describe(pack(Row(16, Rule.RULE_END, EndOf.C_CODE, 0)))
