"""Points in functions that the user named: nothing is known about them."""

from __future__ import annotations

import pytest
from assembled import Finder, function

from leaktrace.abi.process import Action, Function
from leaktrace.arch.x86_64 import ARGUMENTS
from leaktrace.process.probes.code.flow import UnfollowableError
from leaktrace.process.probes.code.values import Register
from leaktrace.process.probes.shape import Shape, Signature

POOL = function(
    "pool_get",
    """
    mov (%rdi), %rax
    test %rax, %rax
fast:
    je slow
    ret
slow:
    push %rbx
    mov %rsi, %rbx
    call more
    test %rax, %rax
got:
    je none
    pop %rbx
    ret
none:
    pop %rbx
    ret
""",
) + function("more", "    jmp *%rax")

# One path jumps through a pointer, as sqlite3_malloc may.
JUMPS = function(
    "pool_get",
    """
    mov (%rdi), %rax
    test %rax, %rax
    je alone
leave:
    jmp *8(%rdi)
alone:
    push %rbx
    call more
end:
    pop %rbx
    ret
""",
) + function("more", "    jmp *%rax")


def test_the_size_is_the_argument_that_was_named(found_in: Finder) -> None:
    found = found_in(POOL, Function.PAIR, "pool_get")
    both = found.at("fast")
    assert both.action is Action.BOTH
    assert both.sizes == (Register(ARGUMENTS[1]),)
    assert both.result == Register(0)
    assert found.where(Action.BEGIN) == {"slow"}
    assert found.where(Action.END) == {"got"}


def test_a_jump_through_a_pointer_closes_the_call(found_in: Finder) -> None:
    found = found_in(JUMPS, Function.PAIR, "pool_get")
    assert found.where(Action.LEAVE) == {"leave"}
    assert found.where(Action.END) == {"end"}
    assert not found.at("leave").sizes
    assert found.at("leave").result is None


def test_an_allocators_own_jump_is_left_to_the_function_behind_it(found_in: Finder) -> None:
    found = found_in(JUMPS.replace("pool_get", "malloc"))
    assert found.where(Action.LEAVE) == set()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("    jmp *8(%rdi)", "only the running process knows"),
        ("    jmp other@PLT", "other of another object"),
    ],
)
def test_refused(found_in: Finder, body: str, why: str) -> None:
    with pytest.raises(UnfollowableError, match=why):
        found_in(function("pool_get", body), Function.PAIR, "pool_get")


@pytest.mark.parametrize(
    ("value", "fails"),
    [
        (0, True),
        (-1, True),
        (-4095, True),
        (-4096, False),
        (0xFFFF_FFFF, True),  # an int of -1, extended by zeros
        (0xFFFF_F001, True),
        (0xFFFF_F000, False),
        ((1 << 64) - 1, True),
        (1, False),
        (0x7F00_0000_0000, False),
        (-(1 << 40), False),
    ],
)
def test_what_is_no_object(value: int, fails: bool) -> None:
    assert Signature(Function.PAIR, Shape()).is_failure(value) is fails
