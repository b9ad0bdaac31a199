"""Which stacks lead through a releasing function, by the calls on the paths through its code,
compared with objdump."""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from leaktrace.elf.object import ElfObject
from leaktrace.process.probes.code.flow import CodeReader

SOURCE = """
#include <stddef.h>
__attribute__((noinline, cold)) void complain(void *block) { __asm__ volatile("" ::"r"(block)); }
__attribute__((noinline)) static void put_away(void *block) { __asm__ volatile("" ::"r"(block)); }
__attribute__((noinline)) static void put_back(void *block) {
    put_away(block);
    __asm__ volatile("" ::"r"(block));
}
__attribute__((noinline, noreturn)) static void give_up(void) { for (;;) __asm__ volatile(""); }
void free(void *block) {
    if (block == (void *)1) {
        complain(block);
        give_up();
    }
    put_away(block);
    put_back(block); /* a jump */
}
void *malloc(size_t size) {
    put_away((void *)size);
    __asm__ volatile("");
    return (void *)size;
}
int main(void) { free(malloc(1)); return 0; }
"""


def returns_of_calls(path: Path, function: str) -> set[int]:
    """The return addresses of the calls in a function, from objdump's disassembly."""
    said = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", f"--disassemble={function}", path],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    lines = re.findall(r"^ +(\w+):\t(\w+)(.*)$", said, re.M)
    return {int(after[0], 16) for one, after in pairwise(lines) if one[1] == "call"}


def returns_in(path: Path, function: str) -> set[int]:
    with ElfObject.open(path) as elf:
        return CodeReader(elf, ()).returns_in(elf.functions([function])[function].vaddr)


def test_tail_calls_and_parts_put_elsewhere(tmp_path: Path) -> None:
    source, program = tmp_path / "program.c", tmp_path / "program"
    source.write_text(SOURCE)
    subprocess.run(
        ["gcc", "-O2", "-fno-builtin", "-fno-ipa-icf", source, "-o", program], check=True
    )
    found = returns_in(program, "free")
    own = returns_of_calls(program, "free") | returns_of_calls(program, "put_back")
    assert len(own) == 2
    assert own <= found
    symbols = subprocess.run(["nm", program], check=True, capture_output=True, text=True).stdout
    cold = re.search(r"^(\w+) t free\.cold$", symbols, re.M)
    assert cold is not None
    elsewhere = [at - int(cold[1], 16) for at in found - own]
    assert elsewhere
    assert all(0 < distance < 32 for distance in elsewhere)
    assert not found & returns_of_calls(program, "malloc")


@pytest.mark.may_skip("not every machine has musl")
def test_musl_free_jumps_to_another_function() -> None:
    libc = Path("/lib/ld-musl-x86_64.so.1")
    if not libc.exists() or shutil.which("objdump") is None:
        pytest.skip("needs musl")
    assert returns_of_calls(libc, "free") == set()
    assert len(returns_in(libc, "free")) > 3


def test_glibc_free(require_glibc: Path) -> None:
    own = returns_of_calls(require_glibc, "free")
    assert own <= returns_in(require_glibc, "free")
    assert not returns_in(require_glibc, "free") & returns_of_calls(require_glibc, "malloc")


@pytest.fixture
def require_glibc() -> Path:
    found = sorted(Path("/lib").glob("x86_64-linux-gnu/libc.so.6"))
    if not found:
        pytest.skip("needs glibc for x86-64")
    return found[0]
