"""Rows of Go code, compared with the DWARF that Go writes from other data, with objdump and nm."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from harness.go_programs import build_go_program
from hypothesis import given, settings
from hypothesis import strategies as st

from leaktrace.abi.process import EndOf, Rule
from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.runtimes.go.functions import GoFlag, read_go_functions
from leaktrace.unwind.ends import with_ends
from leaktrace.unwind.go_rows import read_go_code
from leaktrace.unwind.go_switches import find_switches
from leaktrace.unwind.rows import (
    PC_SHIFT,
    GoSwitch,
    describe,
    pack_rule,
    pack_switch,
    unpack_switch,
)
from leaktrace.unwind.table import compile_object, compile_source, read_source

MODES = ["exe", "pie"]
HEADER = b"\xff\xff\xff\0\0\x01\x08"  # of the table, behind a byte of the version


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """A Go program, and the same program stripped."""
    folder = tmp_path_factory.mktemp("go")

    def build(mode: str) -> tuple[Path, Path]:
        program, stripped = folder / mode, folder / f"{mode}-stripped"
        if not program.exists():
            build_go_program(program, f"-buildmode={mode}")
            subprocess.run(["strip", "-o", stripped, program], check=True)
        return program, stripped

    return build


def symbols_of(program: Path) -> dict[str, int]:
    said = subprocess.run(["nm", program], check=True, capture_output=True, text=True).stdout
    return {name: int(at, 16) for at, name in re.findall(r"^(\w+) [Tt] (\S+)$", said, re.M)}


def disassembled(program: Path, function: str) -> str:
    command = ["objdump", "-d", "--no-show-raw-insn", f"--disassemble={function}", str(program)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


# --- functions and sizes of frames -----------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_functions_and_names(mode: str, built: Callable[[str], tuple[Path, Path]]) -> None:
    program, stripped = built(mode)
    expected = symbols_of(program)
    with ElfObject.open(stripped) as elf:
        assert not elf.has_symbol_table()
        functions = read_go_functions(elf)
    assert functions is not None
    table = functions.symbols()
    found = {table.name(int(entry["name"])): int(entry["value"]) for entry in table.entries}
    for name in ("main.main", "main.descend", "runtime.cgocall", "runtime.mallocgc"):
        assert found[name] == expected[name]
    assert len(found) > 1000


@pytest.mark.parametrize("mode", MODES)
def test_rows_agree_with_dwarf_of_go(mode: str, built: Callable[[str], tuple[Path, Path]]) -> None:
    """At every row of either table, in each function whose caller is found by its frame."""
    program, _ = built(mode)
    with ElfObject.open(program) as elf:
        source = read_source(elf)
    assert source.go is not None
    ours, dwarf = compile_source(source), compile_source(replace(source, go=None))
    functions = source.go.functions
    ordinary = functions.flags & (GoFlag.TOP_FRAME | GoFlag.WRITES_SP) == 0
    compared = differ = 0
    pcs = {int(row) >> PC_SHIFT for table in (ours, dwarf) for row in table.rows.tolist()}
    for vaddr in sorted(pc + source.base for pc in pcs):
        index = int(np.searchsorted(functions.starts, vaddr, side="right")) - 1
        if not 0 <= index < len(functions) or not ordinary[index]:
            continue
        row, expected = ours.lookup(vaddr), dwarf.lookup(vaddr)
        if row is None or expected is None or Rule.RULE_NONE in (row.rule, expected.rule):
            continue
        compared += 1
        differ += (row.rule, row.cfa_offset) != (expected.rule, expected.cfa_offset)
    assert compared > 4000
    assert differ == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_stripped_program_has_the_same_rows(
    mode: str, built: Callable[[str], tuple[Path, Path]]
) -> None:
    rows = []
    for path in built(mode):
        with ElfObject.open(path) as elf:
            source = read_source(elf)
            assert source.go is not None
            first, last = source.go.functions.starts[[0, -1]] - source.base
            table = compile_source(source)
        pcs = (table.rows >> np.uint64(PC_SHIFT)).astype(np.int64)
        rows.append(table.rows[(first <= pcs) & (pcs < last)])
    assert np.array_equal(*rows)


@pytest.mark.parametrize("mode", MODES)
def test_where_stacks_end(mode: str, built: Callable[[str], tuple[Path, Path]]) -> None:
    program, stripped = built(mode)
    symbols = symbols_of(program)
    with ElfObject.open(stripped) as elf:
        table = compile_object(elf)
    for name, of in (
        ("goexit", EndOf.STACK),
        ("mstart", EndOf.STACK),
        ("rt0_go", EndOf.STACK),
        ("mcall", EndOf.STACK),
        ("cgocallback", EndOf.C_CODE),
        ("morestack", EndOf.C_CODE),
        ("asmcgocall", EndOf.C_CODE),
    ):
        full = f"runtime.{name}"
        row = table.lookup(symbols.get(f"{full}.abi0") or symbols[full])
        assert row is not None
        assert (row.rule, row.cfa_offset) == (Rule.RULE_END, of), name


# --- switches of stacks ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_switches_in_the_runtime(mode: str, built: Callable[[str], tuple[Path, Path]]) -> None:
    program, stripped = built(mode)
    symbols = symbols_of(program)
    suffix = ".abi0" if "runtime.asmcgocall.abi0" in symbols else ""
    with ElfObject.open(stripped) as elf:
        code = read_go_code(elf)
    assert code is not None
    by_return = {switch.return_address: switch.rule for switch in code.switches}

    name = f"runtime.asmcgocall{suffix}"
    text = disassembled(program, name)
    found = re.search(
        r"call .*\n +(\w+):(?:.*\n){0,3}?.*mov +(0x\w+|)\(%rsp\),%rdi\n"
        r".*mov +0x8\(%rdi\),%rsi\n.*sub +(0x\w+|)\(%rsp\),%rsi",
        text,
    )
    assert found is not None
    rule = by_return.pop(int(found[1], 16))
    assert rule.of is EndOf.C_OF_GOROUTINE
    assert (rule.first, rule.second) == tuple(
        int(number or "0", 16) for number in found.groups()[1:]
    )
    assert rule.entry_distance == int(found[1], 16) - symbols[name]

    name = f"runtime.systemstack{suffix}"
    text = disassembled(program, name)
    found = re.search(r"call +\*%rdi\n +(\w+):(?:.*\n){1,4}?.*mov +(0x\w+)\(%rbx\),%rax\n", text)
    assert found is not None
    rule = by_return.pop(int(found[1], 16))
    assert (rule.of, rule.first) == (EndOf.SYSTEM_STACK, int(found[2], 16))
    assert rule.entry_distance == int(found[1], 16) - symbols[name]

    start = symbols.get("runtime.cgocallback.abi0") or symbols["runtime.cgocallback"]
    (back,) = [at for at, rule in by_return.items() if rule.of is EndOf.CALLBACK]
    assert by_return.pop(back).entry_distance == back - start

    assert len(by_return) == 3  # asmcgocall on the thread's stack, callCgoMmap, callCgoMunmap
    assert {rule.of for rule in by_return.values()} == {EndOf.C_BELOW_SAVED_SP}


@pytest.mark.parametrize("mode", MODES)
def test_the_caller_of_a_callback(mode: str, built: Callable[[str], tuple[Path, Path]]) -> None:
    """rbp is where the code behind the call restores it from."""
    program, stripped = built(mode)
    text = disassembled(program, "crosscall2")
    found = re.search(r"call .*cgocallback.*\n +(\w+):", text)
    assert found is not None
    behind = text[text.index(found[1]) :]
    (slot,) = re.findall(r"mov +(0x\w+)\(%rsp\),%rbp", behind)
    dropped = sum(int(n, 16) for n in re.findall(r"add +\$(0x\w+),%rsp", behind))
    first = re.findall(r"add +\$(0x\w+),%rsp", behind)[0]
    with ElfObject.open(stripped) as elf:
        row = compile_object(elf).lookup(int(found[1], 16) - 1)
    assert row is not None
    assert row.cfa_offset == dropped + 8 * (1 + behind.count("pop "))
    assert row.cfa_offset - 8 * row.saved_rbp == int(first, 16) + int(slot, 16)


CALL = bytes.fromhex("ffd0")
SWITCHES = {
    # mov (%rsp),%rsp; mov %rax,0x40(%rsp); add $0x10,%rsp; pop %rbp; ret
    "488b24244889442440 4883c4105dc3": GoSwitch(EndOf.C_BELOW_SAVED_SP, 0, 0, 32, 2),
    # mov 0x28(%rsp),%rsi; mov %rsi,%rsp; ret
    "488b742428 4889f4 c3": GoSwitch(EndOf.C_BELOW_SAVED_SP, 0, 40, 8, 2),
    # mov 8(%rsp),%rdi; mov 8(%rdi),%rsi; sub (%rsp),%rsi; mov %rsi,%rsp; pop %rbp; ret
    "488b7c2408 488b7708 482b3424 4889f4 5d c3": GoSwitch(EndOf.C_OF_GOROUTINE, 8, 0, 16, 2),
    # mov %fs:-8,%rax; mov 0x30(%rax),%rbx; mov 0xb8(%rbx),%rax; mov 0x38(%rax),%rsp; ret
    "64488b0425f8ffffff 488b5830 488b83b8000000 488b6038 c3": GoSwitch(
        EndOf.SYSTEM_STACK, 184, 0, 8, 2
    ),
    # mov %fs:-8,%rbx; mov 0x30(%rbx),%rbx; mov (%rbx),%rsi; mov 0x38(%rsi),%rsp; test; jne over a
    # call; add $0x18,%rsp; pop %rbp; ret
    "64488b1c25f8ffffff 488b5b30 488b33 488b6638 85c0 7502 ffd0 4883c418 5d c3": GoSwitch(
        EndOf.CALLBACK, 0, 0, 40, 2
    ),
    # In a library: mov 0x10(%rip),%rcx; mov %fs:(%rcx),%rax; then as above
    "488b0d10000000 64488b01 488b5830 488b83b8000000 488b6038 c3": GoSwitch(
        EndOf.SYSTEM_STACK_OF_LIBRARY, 184, 0, 8, 2
    ),
    # lea 0x28(%rsp),%rax; sub %rsp,%rax; mov 0x10(%rip),%rcx; mov %fs:(%rcx),%rbx; then as above
    "488d442428 4829e0 488b0d10000000 64488b19 488b5b30 488b33 488b6638 4883c418 5d c3": GoSwitch(
        EndOf.CALLBACK_OF_LIBRARY, 0, 8, 40, 2
    ),
}
NONE = {
    "another bound of the stack": "488b7c2408 488b7710 482b3424 4889f4 c3",
    "another place of the goroutine": "64488b0425f0ffffff 488b5830 488b83b8000000 488b6038 c3",
    "loaded later": "90 488b0d10000000 64488b01 488b5830 488b83b8000000 488b6038 c3",
    "loaded from the stack": "488b4c2410 64488b01 488b5830 488b83b8000000 488b6038 c3",
    "beside what is loaded": "488b0d10000000 64488b4108 488b5830 488b83b8000000 488b6038 c3",
    "another member of g": "64488b0425f8ffffff 488b5838 488b83b8000000 488b6038 c3",
    "rbp is elsewhere": "64488b1c25f8ffffff 488b5b30 488b33 488b6638 4883c410 5d 58 c3",
    "a conditional jump": "488b742428 7500 4889f4 c3",
    "a jump": "488b742428 eb00 4889f4 c3",
    "a call": "488b742428 ffd0",
    "a saved register": "4c89e4 c3",
    "a part of a register": "488b742428 89f4 c3",
    "a return that pops": "488b742428 4889f4 c20800",
    "too far": "488bb424e8030000 4889f4 c3",
    "no multiple of eight": "488b742424 4889f4 c3",
    "nothing": "",
}


@pytest.mark.parametrize("code", SWITCHES)
def test_a_switch_by_its_code(code: str) -> None:
    (found,) = find_switches(CALL + bytes.fromhex(code.replace(" ", "")), 0x1000)
    assert found == (0x1002, SWITCHES[code])
    value = 0x77 << PC_SHIFT | pack_switch(found.rule)
    assert unpack_switch(value) == found.rule
    assert describe(value).startswith("0x77: CFA = ")


@pytest.mark.parametrize("code", NONE.values(), ids=list(NONE))
def test_other_code_is_no_switch(code: str) -> None:
    found = find_switches(CALL + bytes.fromhex(code.replace(" ", "")), 0x1000)
    assert 0x1002 not in {switch.return_address for switch in found}


@given(
    st.sampled_from(
        [
            EndOf.C_OF_GOROUTINE,
            EndOf.C_BELOW_SAVED_SP,
            EndOf.CALLBACK,
            EndOf.CALLBACK_OF_LIBRARY,
        ]
    ),
    st.integers(0, 15),
    st.integers(0, 15),
    st.integers(0, 31),
    st.integers(1, (1 << 13) - 1),
)
def test_a_row_holds_a_switch(of: EndOf, first: int, second: int, frame: int, entry: int) -> None:
    switch = GoSwitch(of, 8 * first, 8 * second, 8 * frame, entry)
    assert switch.fits
    assert unpack_switch(pack_switch(switch)) == switch
    assert unpack_switch(pack_rule(Rule.RULE_END, EndOf.C_CODE)) is None


# --- damaged ones ----------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_damaged_table(built: Callable[[str], tuple[Path, Path]], data: st.DataObject) -> None:
    """Its contents are arbitrary: what is made of it has the form of a table."""
    program = built(data.draw(st.sampled_from(MODES)))[1].read_bytes()
    with ElfObject.from_bytes(program) as elf:
        names = (".gopclntab", ".data.rel.ro")
        section = next(s for name in names for s in elf.sections if s.name == name)
    at = program.find(HEADER, section.offset) - 1
    damaged = bytearray(program)
    for _ in range(data.draw(st.integers(1, 4))):
        place = at + data.draw(st.integers(0, 72) | st.integers(8, section.size - 4096))
        damaged[place : place + 8] = data.draw(st.binary(min_size=8, max_size=8))
    with ElfObject.from_bytes(bytes(damaged)) as elf:
        try:
            table = compile_object(elf)
        except ObjectFileError:
            return
    pcs = (table.rows >> np.uint64(PC_SHIFT)).astype(np.int64)
    assert np.all(np.diff(pcs) > 0)


def test_a_table_of_an_unknown_version(built: Callable[[str], tuple[Path, Path]]) -> None:
    """Stacks end in the functions that call C, by their symbols."""
    program = built("exe")[0]
    symbols = symbols_of(program)
    other = bytearray(program.read_bytes())
    magic = next(m for m in (b"\xf0", b"\xf1") if m + HEADER in other)
    other[other.index(magic + HEADER)] = 0xE0
    with ElfObject.from_bytes(bytes(other)) as elf:
        assert read_source(elf).go is None
        table = with_ends(elf, compile_object(elf))
    for name in ("asmcgocall", "callCgoMmap", "callCgoMunmap"):
        start = symbols.get(f"runtime.{name}.abi0") or symbols[f"runtime.{name}"]
        for vaddr in (start, start + 8):
            row = table.lookup(vaddr)
            assert row is not None
            assert (row.rule, row.cfa_offset) == (Rule.RULE_END, EndOf.C_CODE)


def test_an_object_that_is_not_of_go() -> None:
    with ElfObject.open(Path("/usr/bin/python3")) as elf:
        assert read_go_functions(elf) is None
        assert read_source(elf).go is None
