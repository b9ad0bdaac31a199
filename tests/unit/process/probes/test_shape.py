"""How the arguments of a function are described."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaktrace.abi.process import Function, Outcome
from leaktrace.process.probes.allocators import (
    ANY_ENTRY_PROGRAM,
    ENTRY_PROGRAMS,
    HEAP,
    OBJECTS_PROGRAM,
    OPERATORS,
    REGIONS,
    RELEASE_PROGRAM,
    Hook,
)
from leaktrace.process.probes.shape import Shape, Signature

NUMBERS = st.integers(0, 6)


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.sampled_from(Outcome))
def test_a_shape_fits_into_16_bits_and_comes_back(
    size: int, count: int, old: int, memptr: int, outcome: Outcome
) -> None:
    shape = Shape(size, count, old, memptr, outcome)
    assert 0 <= shape.bits < 1 << 16
    assert Shape.from_bits(shape.bits) == shape


@pytest.mark.parametrize("number", [-1, 7])
def test_only_arguments_in_registers_can_be_read(number: int) -> None:
    with pytest.raises(ValueError, match="no function has these arguments"):
        Shape(size=number)


def test_the_functions_of_the_c_library_need_no_cookies() -> None:
    programs = {hook.program for hook in (*HEAP, *REGIONS, *OPERATORS)}
    assert programs == {*ENTRY_PROGRAMS, RELEASE_PROGRAM}
    assert Hook("grow", Function.REALLOC, Shape(size=3, old=2)).program == ANY_ENTRY_PROGRAM
    assert Hook("told", Function.NONE, Shape(), has_return=False).program == OBJECTS_PROGRAM


@pytest.mark.parametrize(
    ("outcome", "value", "failed"),
    [
        (Outcome.BLOCK, 0, True),
        (Outcome.BLOCK, 4096, False),
        (Outcome.STATUS, 0, False),
        (Outcome.STATUS, 12, True),
        (Outcome.IN_PLACE, 0, True),
        (Outcome.NEW_SIZE, 0, False),
        (Outcome.BLOCK_OR_FREED, 0, True),
    ],
)
def test_what_a_function_returns_says_whether_it_failed(
    outcome: Outcome, value: int, failed: bool
) -> None:
    signature = Signature(Function.MALLOC, Shape(size=1, outcome=outcome))
    assert signature.is_failure(value) is failed


def test_whether_the_old_block_may_be_released() -> None:
    assert Shape(old=1, size=2).moves_block
    assert Shape(old=1, size=2, outcome=Outcome.BLOCK_OR_FREED).moves_block
    assert not Shape(old=1, size=2, outcome=Outcome.IN_PLACE).moves_block
    assert not Shape(old=1, size=2, outcome=Outcome.NEW_SIZE).moves_block
    assert not Shape(size=2).moves_block
