"""The points of functions that are assembled and compiled for the tests, compared with the source.
tests/safety runs the real libraries."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from assembled import Finder, function

from leaktrace.abi.process import Action, Function
from leaktrace.arch.x86_64 import RAX, RBP, RBX, RDI, RSP
from leaktrace.process.probes.code.values import Register

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


# The shape of glibc's malloc: a cache that is read first, and a slow path with a call.
FAST_AND_SLOW = (
    function(
        "malloc",
        """
    push %rbx
    mov %rdi, %rbx
    mov cache(%rip), %rax
    test %rax, %rax
miss:
    je slow
    test $15, %al
fast:
    jne broken
    movq $0, cache(%rip)
    pop %rbx
    ret
slow:
    mov %rbx, %rdi
more:
    call take_more
    test %rax, %rax
got:
    je none
    pop %rbx
    ret
none:
    xor %eax, %eax
    pop %rbx
    ret
broken:
    call give_up
""",
    )
    + function("take_more", "    jmp *elsewhere(%rip)")
    + function("give_up", "    ud2")
    + "\n    .data\ncache: .quad 0\nelsewhere: .quad 0\n"
)


def test_a_fast_path_takes_one_point(found_in: Finder) -> None:
    found = found_in(FAST_AND_SLOW)
    assert found.where(Action.BOTH) == {"fast"}
    both = found.at("fast")
    assert both.sizes == (Register(RBX),)
    assert both.result == Register(RAX)
    assert both.frame == (RSP, 16)
    assert both.emulated


def test_a_slow_path_begins_late_and_ends_as_soon_as_the_result_is_known(found_in: Finder) -> None:
    found = found_in(FAST_AND_SLOW)
    assert found.where(Action.BEGIN) == {"more"}
    assert found.at("more").sizes[0] in (Register(RBX), Register(RDI))
    assert found.where(Action.END) == {"got"}
    assert found.at("got").result == Register(RAX)


def test_a_function_in_a_row_begins_at_its_entry_and_ends_where_it_can(found_in: Finder) -> None:
    found = found_in(
        function("malloc", "    push %rbp\n    call take\nend:\n    pop %rbp\n    ret")
        + function("take", "    jmp *%rax")
    )
    begin = found.at("malloc")
    assert begin.action is Action.BEGIN
    assert begin.by_arguments
    (end,) = (point for point in found.points if point.action is Action.END)
    assert end.vaddr == found.labels["end"]
    assert not end.emulated  # nothing emulated is left on the path
    assert end.result == Register(RAX)
    assert end.callers_rbp == Register(RBP)  # pushed, and left as it is


def test_one_direction_of_a_jump_that_leads_to_a_common_end(found_in: Finder) -> None:
    """The shape of glibc's realloc: a finished path joins others that aren't."""
    found = found_in(
        function(
            "malloc",
            """
    push %r12
    mov %rdi, %r12
    call ask
    test %eax, %eax
done:
    je end
    call take
    mov %rax, %r12
    test %r12, %r12
taken:
    jmp end
    nop
end:
    mov %r12, %rax
    pop %r12
    ret
""",
        )
        + function("ask", "    jmp *%rax")
        + function("take", "    jmp *%rax")
    )
    one_way = found.at("done")
    assert one_way.condition == 4  # je, as encoded in its opcode
    assert one_way.towards == found.labels["end"]
    assert found.at("taken").condition is None


def test_a_failure_is_seen_where_only_failures_pass(found_in: Finder) -> None:
    """Another function, whose call is open, may have jumped here. The jump itself is on the path of
    all calls, and has no point."""
    found = found_in(
        function(
            "malloc",
            """
    test %rdi, %rdi
all:
    js refuse
    mov cache(%rip), %rax
    test $15, %al
both:
    jne both_end
both_end:
    ret
refuse:
    xor %eax, %eax
    ret
""",
        )
        + "\n    .data\ncache: .quad 0"
    )
    assert found.where(Action.BOTH) == {"both"}
    assert found.where(Action.END) == {"refuse"}
    assert found.at("refuse").may_be_unopened
    assert len(found.points) == 2


def test_a_result_that_memset_returns(found_in: Finder, tmp_path: Path) -> None:
    """The shape of glibc's calloc, which jumps to memset."""
    found = found_in(
        function(
            "malloc",
            """
    push %rbx
    mov %rdi, %rbx
    call take
    mov %rax, %rdi
    xor %esi, %esi
    mov %rbx, %rdx
    pop %rbx
end:
    jmp memset@PLT
""",
        )
        + function("take", "    jmp *%rax")
    )
    assert found.at("end").result == Register(RDI)


def test_a_system_calls_error_is_seen_before_it_is_turned_into_minus_one(found_in: Finder) -> None:
    found = found_in(
        function(
            "malloc",
            """
    mov $9, %eax
    syscall
    cmp $-4096, %rax
both:
    ja error
    ret
error:
    mov $-1, %rax
    ret
""",
        ),
        Function.MMAP,
    )
    assert found.where(Action.BOTH) == {"both"}
    assert found.at("both").result == Register(RAX)


def test_an_int_may_be_moved_by_halves(found_in: Finder) -> None:
    found = found_in(
        function(
            "malloc",
            """
    push %rbx
    call take
    mov %eax, %ebx
    test %ebx, %ebx
end:
    jne further
further:
    mov %ebx, %eax
    pop %rbx
    ret
""",
        )
        + function("take", "    jmp *%rax"),
        Function.MUNMAP,
    )
    assert found.at("end").result == Register(RBX)


def test_a_jump_to_another_hooked_function_hands_the_call_on(found_in: Finder) -> None:
    """The shape of glibc's reallocarray."""
    found = found_in(
        function(
            "reallocarray",
            """
    mov %rsi, %rax
    mul %rdx
    jo overflow
    mov %rax, %rsi
    jmp realloc
overflow:
    xor %eax, %eax
    ret
""",
        )
        + function("realloc", "    ret"),
        Function.REALLOCARRAY,
        name="reallocarray",
    )
    assert found.where(Action.BEGIN) == set()
    assert found.where(Action.END) == {"overflow"}


def test_a_function_that_hands_on_another_size_is_opened_before(found_in: Finder) -> None:
    found = found_in(
        function("reallocarray", "    push %rbx\n    pop %rbx\n    add $16, %rsi\n    jmp realloc")
        + function("realloc", "    ret"),
        Function.REALLOCARRAY,
        name="reallocarray",
    )
    assert found.where(Action.BEGIN) == {"reallocarray"}
    assert len(found.points) == 1  # realloc's own see its end


def test_a_call_that_never_returns_because_of_its_argument(found_in: Finder) -> None:
    """The shape of glibc's malloc_printerr: __libc_message returns unless its argument is to
    abort."""
    found = found_in(
        function(
            "malloc",
            """
    mov cache(%rip), %rax
    test $15, %al
both:
    jne broken
    ret
broken:
    mov $1, %edi
    call message
    nop
    nop
""",
        )
        + function(
            "message",
            """
    push %r15
    mov %edi, %r15d
    and $1, %r15d
    call say
    test %r15d, %r15d
    je 1f
    ud2
1:  pop %r15
    ret
""",
        )
        + function("say", "    jmp *%rax")
        + "\n    .data\ncache: .quad 0"
    )
    assert found.where(Action.BOTH) == {"both"}


def test_a_final_call_that_is_padded_by_code_of_another_path(found_in: Finder) -> None:
    """The nop after the call is also reached by a jump: the call is examined at once."""
    found = found_in(
        function("die", "    test %edi, %edi\n    je 1f\n    ud2\n1:  ret")
        + function(
            "malloc",
            """
    push %rbx
    mov %rdi, %rbx
    test %rdi, %rdi
    jne on
    mov $1, %edi
    call die
on:
    nop
    lea (%rbx,%rbx), %rax
end:
    jmp 1f
1:  pop %rbx
    ret
""",
        )
    )
    assert "end" in found.where(Action.BOTH) or "end" in found.where(Action.END)
