"""What ends or weakens the search for points: code that can't be followed, and values that may have
changed meanwhile."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from assembled import SIGNATURES, Finder, function

from leaktrace.abi.process import Action, Function
from leaktrace.elf.object import ElfObject
from leaktrace.process.probes.code.flow import UnfollowableError
from leaktrace.process.probes.code.values import Constant, Register, Slot
from leaktrace.process.probes.find_points import PointFinder
from leaktrace.unwind.table import compile_object

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "    lea table(%rip), %rdx\n    movslq (%rdx,%rdi,4), %rax\n    add %rdx, %rax\n"
            "    jmp *%rax\ntable: .long 0",
            "only the running process knows",
        ),
        (
            "    lea table(%rip), %rcx\n    lea (%rcx,%rdi,8), %rcx\n    mov (%rcx), %rax\n"
            "    jmp *%rax\ntable: .quad 0",
            "only the running process knows",
        ),
        ("    jmp *64(,%rdi,8)", "only the running process knows"),
        ("    je 1f + 1\n1:  mov $0xc3909090, %eax\n    ret", "overlap"),
        ("    .byte 0x06", "can't be decoded"),
        ("    call setjmp@PLT\n    ret", "returns twice"),
        ("    jmp somewhere@PLT", "jumps to somewhere of another object"),
        ("    mov %rdi, %rsp\n    ret", "stack pointer"),
        ("1:  mov %rdi, %rax\n    loop 1b\n    call *%rax\nend:\n    ret\n", "back to its entry"),
        ("    xor %ecx, %ecx\n1:  mov %rdi, %rax\n    loop 1b\n    call *%rax\nend:\n    ret", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_followed(found_in: Finder, body: str, reason: str) -> None:
    if not reason:
        found = found_in(function("malloc", body))
        assert found.where(Action.END) == {"end"}  # a loop before the end is no hindrance
        return
    with pytest.raises(UnfollowableError, match=reason):
        found_in(function("malloc", body))


@pytest.mark.parametrize(
    "store",
    ["movups %xmm0, (%rsp)", "movq %xmm0, (%rsp)", "vmovdqu %xmm0, (%rsp)", "movnti %rax, (%rsp)"],
)
def test_a_slot_that_is_written_over_is_forgotten(found_in: Finder, store: str) -> None:
    """capstone calls none of these a store."""
    found = found_in(
        function(
            "malloc",
            f"""
    sub $24, %rsp
    mov %rdi, (%rsp)
    xor %edi, %edi
    xor %ecx, %ecx
    {store}
    mov cache(%rip), %rax
    test $15, %al
end:
    jne 1f
1:  add $24, %rsp
    ret
""",
        )
        + "\n    .data\ncache: .quad 0"
    )
    assert found.where(Action.BOTH) == set()
    assert found.at("end").action is Action.END
    assert found.at("malloc").action is Action.BEGIN


def test_an_exchange_writes_rax(found_in: Finder) -> None:
    """lock cmpxchg, which capstone doesn't report: rax is no longer NULL."""
    found = found_in(
        function(
            "malloc",
            """
    mov cache(%rip), %rdx
    xor %eax, %eax
    lock cmpxchg %rdx, cache(%rip)
    test %rax, %rax
both:
    jne other
    mov %rdx, %rax
    ret
other:
    ret
""",
        )
        + "\n    .data\ncache: .quad 0"
    )
    reached = {label for action in Action for label in found.where(action)}
    assert "other" in reached or any(
        point.towards == found.labels["other"] for point in found.points
    )


def test_a_test_of_a_part_decides_nothing(found_in: Finder) -> None:
    found = found_in(
        function(
            "malloc",
            """
    mov $0x100, %edx
    test %dl, %dl
    je small
    mov cache(%rip), %rax
    test $15, %al
first:
    jne 1f
1:  ret
small:
    mov cache+8(%rip), %rax
    test $15, %al
second:
    jne 1f
1:  ret
""",
        )
        + "\n    .data\ncache: .quad 0, 0"
    )
    assert found.where(Action.BOTH) == {"first", "second"}


def test_a_decision_is_revised_when_another_path_joins(found_in: Finder) -> None:
    """The test is reached with rcx = 0 first, and then with any rcx."""
    found = found_in(
        function(
            "malloc",
            """
    mov cache(%rip), %rcx
    test %rsi, %rsi
    jne join
    xor %ecx, %ecx
join:
    test %rcx, %rcx
    mov cache+8(%rip), %rcx
    je small
    mov cache(%rip), %rax
    test $15, %al
first:
    jne 1f
1:  ret
small:
    mov cache+8(%rip), %rax
    test $15, %al
second:
    jne 1f
1:  ret
""",
        )
        + "\n    .data\ncache: .quad 0, 0"
    )
    assert found.where(Action.BOTH) == {"first", "second"}


def test_an_address_in_the_frame_gets_away_through_an_index(found_in: Finder) -> None:
    found = found_in(
        function(
            "malloc",
            """
    sub $24, %rsp
    mov %rdi, (%rsp)
    xor %edi, %edi
    lea (%rsp,%rdx,8), %rcx
    movq $5, (%rcx)
    mov cache(%rip), %rax
    test $15, %al
end:
    jne 1f
1:  add $24, %rsp
    ret
""",
        )
        + "\n    .data\ncache: .quad 0"
    )
    assert found.where(Action.BOTH) == set()


def test_no_point_where_the_kernel_takes_none(found_in: Finder) -> None:
    """VEX and EVEX: refused, and silently where the file isn't mapped yet."""
    found = found_in(
        function(
            "malloc",
            """
    mov cache(%rip), %rax
    vpxor %xmm0, %xmm0, %xmm0
    vmovdqu %ymm0, (%rax)
    vzeroupper
end:
    ret
""",
        )
        + "\n    .data\ncache: .quad 0"
    )
    assert found.where(Action.BOTH) == {"end"}


def test_nothing_may_be_allocated_behind_an_end(found_in: Finder) -> None:
    """The result is in rbx before the second call, and no end may come before that."""
    found = found_in(
        function(
            "malloc",
            """
    push %rbx
    call take
    mov %rax, %rbx
    test %rbx, %rbx
early:
    jne further
further:
    call take
    mov %rbx, %rax
end:
    pop %rbx
    ret
""",
        )
        + function("take", "    jmp *%rax")
    )
    (end,) = (point for point in found.points if point.action is Action.END)
    assert end.vaddr > found.labels["further"]


def test_exceptions_land_in_the_function(tmp_path: Path) -> None:
    """What a catch clause returns is a result as well."""
    source = tmp_path / "own.cpp"
    source.write_text(
        """
        #include <cstddef>
        void *take(std::size_t) __attribute__((noinline));
        void *reserve(std::size_t) noexcept __attribute__((noinline));
        void *operator new(std::size_t size) {
            try { return take(size); } catch (...) { return reserve(size); }
        }
        """
    )
    library = tmp_path / "own.so"
    subprocess.run(["g++", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    with ElfObject.open(library) as elf:
        vaddr = elf.functions(["_Znwm"])["_Znwm"].vaddr
        finder = PointFinder(
            elf, {vaddr: SIGNATURES[Function.OPERATOR_NEW]}, {}, compile_object(elf)
        )
        points = finder.find(vaddr)
        code = elf.read_vaddr(vaddr, 4)
    assert code
    ends = [point for point in points if point.action is Action.END]
    assert len({point.vaddr for point in ends}) >= 1
    disassembly = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", library], capture_output=True, text=True, check=True
    ).stdout
    calls = {
        int(line.split(":")[0], 16)
        for line in disassembly.splitlines()
        if "call" in line and ("take" in line or "reserve" in line)
    }
    assert len(calls) == 2
    assert all(any(end.vaddr > call for end in ends) for call in calls)


def test_values_differ_by_kind() -> None:
    """Register 0, constant 0 and slot 0 are three things."""
    assert len({Register(0), Constant(0), Slot(0)}) == 3


def test_a_loop_is_a_separate_path(found_in: Finder) -> None:
    """`loop`, which capstone doesn't count as a jump, leads to an end that no other path has."""
    found = found_in(
        function(
            "malloc",
            """
    push %rbx
    mov %rdi, %rbx
    call more@PLT
    loop away
first:
    jmp 1f
1:  pop %rbx
    ret
away:
    nop
    xor %eax, %eax
second:
    jmp 1f
1:  pop %rbx
    ret
""",
        )
    )
    ends = [point for point in found.points if point.action is Action.END]
    assert any(point.vaddr >= found.labels["away"] for point in ends)
    assert any(found.labels["first"] <= point.vaddr < found.labels["away"] for point in ends)


@pytest.mark.parametrize("prefix", ["0x2e", "0x3e", "0x26", "0x36"])
def test_a_segment_that_means_nothing_hides_no_store(found_in: Finder, prefix: str) -> None:
    """cs, ds, es, ss: in 64-bit mode the address is the same."""
    found = found_in(
        function(
            "malloc",
            f"""
    sub $24, %rsp
    mov %rdi, 8(%rsp)
    xor %edi, %edi
    mov $77, %eax
    .byte {prefix}
    mov %rax, 8(%rsp)
    lea 5(%rax), %rax
end:
    jmp 1f
1:  add $24, %rsp
    ret
""",
        )
    )
    assert all(Slot(-24) not in point.sizes for point in found.points)
    assert found.where(Action.BOTH) == set()


def test_what_never_returns_for_one_function_may_for_another(found_in: Finder) -> None:
    """realloc jumps into malloc with another number: there the call never returns."""
    shared = """
    call die
    nop
    mov cache(%rip), %rax
    add $8, %rsp
end:
    jmp 1f
1:  ret
"""
    code = (
        function("die", "    test %edi, %edi\n    je 1f\n    ud2\n1:  ret")
        + function("malloc", f"    sub $8, %rsp\n    xor %edi, %edi\nshared:{shared}")
        + function("calloc", "    sub $8, %rsp\n    mov $1, %edi\n    jmp shared")
        + "\n    .data\ncache: .quad 0"
    )
    alone = found_in(code)
    after = found_in(code, before=("calloc",))
    assert alone.points == after.points
    assert alone.points


def test_what_a_signal_may_write_over_is_forgotten(found_in: Finder) -> None:
    """Below the red zone, 128 bytes under rsp (psABI, 3.2.2), a handler's frame may be."""

    def code(depth: int) -> str:
        return (
            function(
                "malloc",
                f"""
    sub ${depth}, %rsp
    mov %rdi, (%rsp)
    xor %edi, %edi
    mov cache(%rip), %rax
    add ${depth}, %rsp
end:
    jmp 1f
1:  ret
""",
            )
            + "\n    .data\ncache: .quad 0"
        )

    near, far = found_in(code(120)), found_in(code(136))
    assert near.at("end").sizes == (Slot(-128),)
    assert all(Slot(-144) not in point.sizes for point in far.points)
    assert far.where(Action.END) == {"end"}
