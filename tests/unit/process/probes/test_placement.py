"""The locations of probes, in functions assembled by hand and in the C library."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from leaktrace.elf.object import ElfObject
from leaktrace.process.probes.object_plan import Way, plan_object
from leaktrace.process.probes.placement import Placement, place, place_in

ENDBR64 = "f3 0f 1e fa"


def placed(code: str, argument_count: int = 1, whole: str | None = None) -> Placement:
    return place(
        bytes.fromhex(code), argument_count, None if whole is None else bytes.fromhex(whole)
    )


@pytest.mark.parametrize(
    ("code", "offset"),
    [
        ("41 54 55 53 c3", 0),  # push r12: at once
        ("55 48 89 e5 c3", 0),  # push rbp
        (f"{ENDBR64} 55 48 89 e5 c3", 4),  # endbr64 isn't emulated, the push behind it is
        ("48 85 ff 74 05 55 c3", 3),  # test rdi,rdi; je: glibc's free
        ("48 81 ff 00 10 00 00 77 10 c3", 7),  # cmp rdi,0x1000; ja: jemalloc's malloc
        ("e9 00 01 00 00", 0),  # jmp: musl's malloc
        ("eb 10", 0),  # jmp, short: a function of two bytes
        ("90 55 c3", 0),  # nop
        ("8b 05 10 00 00 00 53 c3", 6),  # mov eax,[rip+0x10]; push rbx: nothing precious written
    ],
)
def test_the_first_emulated_instruction(code: str, offset: int) -> None:
    placement = placed(code)
    assert placement.emulated
    assert placement.offset == offset
    assert placement.reason == ""


@pytest.mark.parametrize(
    ("code", "argument_count", "why"),
    [
        ("48 89 f7 55 c3", 1, "argument"),  # mov rdi,rsi; push
        ("31 ff 55 c3", 1, "argument"),  # xor edi,edi: half a register is the register
        ("48 83 ec 08 e8 00 00 00 00", 1, "stack pointer"),  # sub rsp,8; call
        ("48 f7 e2 70 10 c3", 3, "argument"),  # mul rdx; jo: writes rdx unasked
        ("c3", 1, "branches"),  # ret
        ("ff e0 55 c3", 1, "branches"),  # jmp rax: not emulated
        ("c2 08 00 55", 1, "branches"),  # ret 8
        ("e3 02 55 c3", 1, "branches"),  # jrcxz: emulated as no other jump is
        ("48 89 c8 " * 20, 1, "no emulated instruction"),  # mov rax,rcx, for long
    ],
)
def test_the_entry_where_nothing_better_is_safe(code: str, argument_count: int, why: str) -> None:
    placement = placed(code, argument_count)
    assert placement.offset == 0
    assert not placement.emulated
    assert why in placement.reason


NOPS = [
    "0f 1f 44 00 00",  # nopl 0(%rax,%rax,1): -mnop-mcount, USDT
    "0f 1f 44 00 08",  # the same with another displacement: -fpatchable-function-entry=5 of clang
    "66 0f 1f 40 00",  # nopw
    "66 66 66 66 90",  # xchg %ax,%ax, prefixed
    "48 8d 74 26 00",  # lea 0(%rsi,%riz,1),%rsi: of old assemblers
    "66 2e 0f 1f 84 00 00 00 00 00",  # nopw %cs:0(%rax,%rax,1), of ten bytes
    "66 90",
]


@pytest.mark.parametrize("nop", NOPS)
def test_never_on_a_nop_that_a_kernel_may_replace_with_a_call(nop: str) -> None:
    """The probe is after it: at an emulated instruction, or at the first that is not such a nop."""
    size = len(bytes.fromhex(nop))
    pushes = placed(f"{nop} 48 85 ff 53 c3")  # nop; test; push rbx
    assert (pushes.offset, pushes.emulated) == (size + 3, True)
    branches = placed(f"{nop} 48 89 f8 c3")  # nop; mov rax,rdi; ret
    assert (branches.offset, branches.instruction) == (size, "mov rax, rdi")
    assert not branches.emulated
    assert not branches.refused
    assert placed(f"{ENDBR64} {nop} 48 89 f8 c3").offset == 0  # the endbr64 will do
    assert placed(f"{nop} {nop} 48 89 f8 c3").offset == 2 * size
    assert placed(f"{nop} eb 10").offset == size


def test_a_nop_of_one_byte_stays_one() -> None:
    assert placed("90 90 90 90 90 48 89 f8 c3").offset == 0


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("0f 1f 44 00 00 48 ff c8 75 fb c3", "jumps back"),  # nop; dec rax; jne to the dec
        ("0f 1f 44 00 00", "nothing that may carry a probe"),
        ("0f 1f 44 00 00 06", "nothing that may carry a probe"),
    ],
)
def test_refused_where_only_such_a_nop_would_do(code: str, why: str) -> None:
    placement = placed(code)
    assert placement.refused
    assert why in placement.reason


def test_arguments_that_the_program_does_not_read_may_change() -> None:
    code = "31 f6 55 c3"  # xor esi,esi; push rbp
    assert placed(code, 1).offset == 2
    assert placed(code, 2).offset == 0


def test_a_loop_back_to_the_candidate_would_hit_it_again() -> None:
    loop = "48 85 ff 74 05 48 ff c8 eb f9"  # test; je; dec rax; jmp to the je
    assert not placed(loop).emulated
    assert "jumps back" in placed(loop).reason


def test_a_loop_to_behind_the_candidate_is_harmless() -> None:
    loop = "48 85 ff 74 05 48 ff c8 eb fb"  # … jmp to the dec
    assert placed(loop).offset == 3


def test_code_that_cannot_be_decoded() -> None:
    assert not placed("06 06 06").emulated
    assert not placed("").emulated


def test_the_c_library_of_this_machine() -> None:
    """Every function that is called often has a probe that costs one trap."""
    libc = next(Path("/").glob("lib*/x86_64-linux-gnu/libc.so.6"), None)
    if libc is None:
        pytest.skip("there is no glibc for x86-64 where Debian has it")
    with ElfObject.open(libc) as elf:
        plan = plan_object(elf, str(libc), way=Way.RETURNS)
        assert plan is not None
        by_name = {probe.hook.symbol: probe for probe in plan.probes}
        for name in ("malloc", "free", "calloc", "realloc"):
            assert by_name[name].placement.emulated, name
            assert elf.read(by_name[name].offset, 1)


def test_ifuncs_are_not_hooked(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    source = tmp_path / "own.c"
    source.write_text(
        """
        #include <stddef.h>
        static void *real(size_t n) { (void)n; return 0; }
        static void *(*resolve(void))(size_t) { return real; }
        void *valloc(size_t) __attribute__((ifunc("resolve")));
        void *malloc(size_t n) { return real(n); }
        void free(void *p) { (void)p; }
        """
    )
    library = tmp_path / "libown.so"
    flags = ["-shared", "-fPIC", "-fno-builtin", "-O1"]
    subprocess.run(["gcc", *flags, "-o", library, source], check=True)
    with ElfObject.open(library) as elf:
        plan = plan_object(elf, str(library))
        assert plan is not None
        assert set(plan.symbols) == {"malloc", "free"}
        assert "valloc" in plan.missing
        function = elf.functions(["malloc"])["malloc"]
        assert isinstance(place_in(elf, function, 1), Placement)
