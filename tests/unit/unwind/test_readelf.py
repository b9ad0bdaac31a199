"""Every row of a table compared with readelf's output for the same object, at every pc where either
changes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from leaktrace.abi.process import Rule, SavedRbp
from leaktrace.elf.object import ElfObject
from leaktrace.unwind.rows import NoRule, Row
from leaktrace.unwind.table import UnwindTable, compile_object

READELF = shutil.which("readelf")
GCC = shutil.which("gcc")

pytestmark = pytest.mark.skipif(READELF is None, reason="needs readelf (binutils)")

CIE = re.compile(r"^([0-9a-f]+) .* CIE ")
FDE = re.compile(r"^[0-9a-f]+ .* FDE cie=([0-9a-f]+) pc=([0-9a-f]+)\.\.([0-9a-f]+)")
REGISTER_PLUS = re.compile(r"(\w+)\+(-?\d+)")  # readelf prints rsp+-8

# What readelf shows for a pc: the columns CFA, rbp and ra.
Shown = tuple[str, str, str]
NOTHING: Shown = ("", "", "")


def shared_object(name: str) -> Path:
    """A library that the dynamic loader of this machine knows."""
    ldconfig = shutil.which("ldconfig", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if ldconfig:
        listed = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=True).stdout
        for line in listed.splitlines():
            entry, _, path = line.partition(" => ")
            if entry.split()[:1] == [name] and "x86-64" in entry:
                return Path(path)
    pytest.skip(f"{name} is not installed")


def readelf_rules(path: Path, section: str = ".eh_frame") -> dict[int, Shown]:
    """What holds from each pc on, according to readelf; `NOTHING` where a function ends."""
    assert READELF
    # Follow no link to separate debug files: their frames are not the object's.
    command = [READELF, "--debug-dump=frames-interp,no-follow-links", str(path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rules: dict[int, Shown] = {}
    initial: dict[int, Shown] = {}  # by the CIE's offset
    ends: list[int] = []
    columns: list[str] = []
    cie: int | None = None
    low = high = 0
    wanted = False
    for line in output.splitlines():
        if line.startswith("Contents of the "):
            wanted = f"the {section} section" in line
            continue
        fields = re.sub(r" \(\w+\)", "", line).split()  # "r8 (r8)" is one column
        if not wanted or not fields:
            continue
        if found := CIE.match(line):
            cie = int(found[1], 16)
        elif found := FDE.match(line):
            cie = None
            low, high = int(found[2], 16), int(found[3], 16)
            ends.append(high)
            if low < high:  # a function without instructions is shown without a row
                rules[low] = initial.get(int(found[1], 16), ("", "u", "u"))
        elif fields[0] == "LOC":
            columns = fields
        elif re.fullmatch(r"[0-9a-f]{16}", fields[0]):
            row = dict(zip(columns, fields, strict=False))
            shown = (row["CFA"], row.get("rbp", "u"), row.get("ra", "u"))
            pc = int(fields[0], 16)
            if cie is not None:
                initial[cie] = shown
            elif low <= pc < high:
                rules[pc] = shown
    for end in ends:
        rules.setdefault(end, NOTHING)
    return rules


def combined_rules(path: Path) -> dict[int, Shown]:
    """What both sections say, where no function is in both: .eh_frame of the startup files and
    .debug_frame of the rest."""
    rules = readelf_rules(path, ".debug_frame")
    for pc, shown in readelf_rules(path, ".eh_frame").items():
        if shown != NOTHING or pc not in rules:
            rules[pc] = shown
    return rules


def differs(shown: Shown, row: Row | None) -> str | None:
    """How a row contradicts readelf, None when it doesn't. An expression may be inexpressible."""
    cfa, rbp, ra = shown
    if shown == NOTHING:
        fine = row is None or (row.rule, row.cfa_offset) == (Rule.RULE_NONE, NoRule.NO_ENTRY)
        return None if fine else "covered although no function is there"
    if row is None:
        return "not covered"
    if ra == "u":
        return None if row.rule is Rule.RULE_END else "not the end of the stack"
    if ra != "c-8":
        fine = (row.rule is Rule.RULE_SIGNAL and ra == cfa == rbp == "exp") or (
            (row.rule, row.cfa_offset) == (Rule.RULE_NONE, NoRule.RETURN_ADDRESS)
        )
        return None if fine else "return address"
    if cfa == "exp":
        if row.rule is Rule.RULE_NONE:
            return None if row.cfa_offset == NoRule.CFA_EXPRESSION else "wrong reason"
        if row.rule not in (Rule.RULE_PLT, Rule.RULE_RBP_DEREF, Rule.RULE_RSP_DEREF):
            return "CFA expression"
    else:
        match = REGISTER_PLUS.fullmatch(cfa)
        assert match, cfa
        register, offset = match[1], int(match[2])
        rule = {"rsp": Rule.RULE_RSP, "rbp": Rule.RULE_RBP}.get(register)
        if rule is None:
            fine = (row.rule, row.cfa_offset) == (Rule.RULE_NONE, NoRule.CFA_REGISTER)
            return None if fine else "CFA register"
        if offset % 8:
            fine = (row.rule, row.cfa_offset) == (Rule.RULE_NONE, NoRule.CFA_OFFSET)
            return None if fine else "CFA offset"
        if (row.rule, row.cfa_offset) != (rule, offset):
            return "CFA"
    return _differs_in_rbp(rbp, row)


def _differs_in_rbp(rbp: str, row: Row) -> str | None:
    if rbp in ("u", "s"):
        # readelf says u both for DW_CFA_undefined and for a register without a rule
        fine = row.saved_rbp in (SavedRbp.UNCHANGED, SavedRbp.LOST)
    elif match := re.fullmatch(r"c([-+]\d+)", rbp):
        distance = -int(match[1])
        sayable = distance % 8 == 0 and 8 <= distance <= 253 * 8
        fine = row.saved_rbp == (distance // 8 if sayable else SavedRbp.LOST)
    else:
        fine = row.saved_rbp in (SavedRbp.AT_RBP, SavedRbp.LOST)
    return None if fine else "saved rbp"


def contradictions(rules: dict[int, Shown], table: UnwindTable) -> tuple[list[str], Counter[str]]:
    """Where the table says something else than readelf, and how many pcs were compared by rule."""
    mine = [int(value >> 32) + table.base for value in table.rows.tolist()]
    found: list[str] = []
    compared: Counter[str] = Counter()
    shown = NOTHING
    for pc in sorted(rules.keys() | set(mine)):
        shown = rules.get(pc, shown)
        row = table.lookup(pc)
        compared[row.rule.name if row else "no row"] += 1
        reason = differs(shown, row)
        if reason:
            found.append(f"{pc:#x}: {reason}: readelf {shown}, row {row}")
    return found, compared


def check(path: Path, section: str = ".eh_frame") -> Counter[str]:
    with ElfObject.open(path) as elf:
        table = compile_object(elf)
    found, compared = contradictions(readelf_rules(path, section), table)
    assert not found, "\n".join(found[:20])
    assert compared.total() > 100
    return compared


def test_libc() -> None:
    compared = check(shared_object("libc.so.6"))
    # __restore_rt; thread and process entry
    assert compared["RULE_SIGNAL"] >= 1
    assert compared["RULE_END"] >= 1


def test_libstdcxx() -> None:
    assert check(shared_object("libstdc++.so.6"))["RULE_RSP"] > 1000


def test_python() -> None:
    python = shutil.which("python3", path="/usr/bin") or sys.executable
    check(Path(python).resolve())


def test_libcrypto() -> None:
    # Hand-written assembly: CFA in all sorts of registers and expressions.
    compared = check(shared_object("libcrypto.so.3"))
    assert compared["RULE_NONE"] >= 1


SOURCE = r"""
#include <stdlib.h>
#include <string.h>
#include <alloca.h>
/* over-aligned local and alloca: gcc realigns the stack, CFA = *(rbp-8) */
__attribute__((noinline)) long realigned(int n) {
    _Alignas(64) char local[256];
    char *dynamic = alloca(n);
    memset(local, n, sizeof local);
    memset(dynamic, n, n);
    asm volatile("" :: "r"(local), "r"(dynamic) : "memory", "rbx", "r12", "r13", "r14", "r15");
    return local[3] + dynamic[1];
}
__attribute__((noinline)) long plain(long a, long b) {
    char *p = malloc(a);
    asm volatile("" :: "r"(p) : "memory", "rbx", "rbp", "r12");
    long r = realigned(a) + b;
    free(p);
    return r;
}
int main(int argc, char **argv) { return (int)plain(argc, argc * 2L); }
"""


def build(directory: Path, *flags: str) -> Path:
    assert GCC
    source, program = directory / "program.c", directory / "program"
    source.write_text(SOURCE)
    subprocess.run([GCC, *flags, "-o", str(program), str(source)], check=True)
    return program


@pytest.mark.skipif(GCC is None, reason="needs gcc")
def test_realigned_stack(tmp_path: Path) -> None:
    program = build(tmp_path, "-O2")
    with ElfObject.open(program) as elf:
        table = compile_object(elf)
    found, compared = contradictions(readelf_rules(program), table)
    assert not found, found
    assert compared["RULE_RBP_DEREF"] >= 1
    at_rbp = [row for row in map(table.lookup, range(table.base, table.base + 0x4000)) if row]
    assert any(row.saved_rbp == SavedRbp.AT_RBP for row in at_rbp)


@pytest.mark.skipif(GCC is None, reason="needs gcc")
def test_debug_frame_fills_in_what_eh_frame_lacks(tmp_path: Path) -> None:
    program = build(tmp_path, "-O2", "-g", "-fno-asynchronous-unwind-tables")
    with ElfObject.open(program) as elf:
        table = compile_object(elf)
    assert readelf_rules(program, ".debug_frame")
    found, compared = contradictions(combined_rules(program), table)
    assert not found, found
    assert compared["RULE_RBP_DEREF"] >= 1


@pytest.mark.skipif(GCC is None, reason="needs gcc")
@pytest.mark.parametrize("compression", ["none", "zlib"])
def test_debug_frame_alone(tmp_path: Path, compression: str) -> None:
    """No startup files and no .eh_frame; compressed as distributions do with debug files."""
    flags = ("-O2", "-g", "-fno-asynchronous-unwind-tables", "-nostdlib", "-shared", "-fPIC")
    library = build(tmp_path, *flags, f"-gz={compression}")
    with ElfObject.open(library) as elf:
        eh_frame = elf.section(".eh_frame")
        assert eh_frame is None or not eh_frame[0]
        table = compile_object(elf)
    found, compared = contradictions(readelf_rules(library, ".debug_frame"), table)
    assert not found, found
    assert compared["RULE_RBP_DEREF"] >= 1


@pytest.mark.skipif(GCC is None, reason="needs gcc")
def test_without_section_headers_the_segment_leads_to_the_same_rows(tmp_path: Path) -> None:
    program = build(tmp_path, "-O2")
    with ElfObject.open(program) as elf:
        expected = compile_object(elf)
    stripped = bytearray(program.read_bytes())
    stripped[40:48] = bytes(8)  # e_shoff
    stripped[60:64] = bytes(4)  # e_shnum, e_shstrndx
    with ElfObject.from_bytes(bytes(stripped), "stripped") as elf:
        assert not elf.sections
        table = compile_object(elf)
    assert table.rows.tolist() == expected.rows.tolist()
    assert table.pages.tolist() == expected.pages.tolist()


def test_musl_libc() -> None:
    """musl is built without unwind tables: what little there is must be right."""
    libc = Path("/lib/ld-musl-x86_64.so.1")
    if not libc.exists():
        pytest.skip("needs musl")
    with ElfObject.open(libc) as elf:
        table = compile_object(elf)
    found, compared = contradictions(readelf_rules(libc), table)
    assert not found, found
    assert compared


@pytest.mark.skipif(shutil.which("musl-gcc") is None, reason="needs musl-gcc")
def test_static_musl_program(tmp_path: Path) -> None:
    source, program = tmp_path / "program.c", tmp_path / "program"
    source.write_text(SOURCE)
    subprocess.run(["musl-gcc", "-O2", "-static", "-o", str(program), str(source)], check=True)
    with ElfObject.open(program) as elf:
        table = compile_object(elf)
    found, compared = contradictions(combined_rules(program), table)
    assert not found, found
    assert compared["RULE_RSP"] >= 1
