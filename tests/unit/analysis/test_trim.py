"""The part of a stack that is shown: --full-stacks and --depth, on stacks made by hand."""

from __future__ import annotations

import pytest

from leaktrace.analysis.trim import is_plumbing, readable
from leaktrace.options import ReportOptions
from leaktrace.site import Frame, Stack


def stack(*functions: str, inlined: tuple[str, ...] = ()) -> Stack:
    return Stack(tuple(Frame(1, function=name, inlined=name in inlined) for name in functions))


def shown(made: Stack, *, full_stacks: bool = False, depth: int | None = None) -> list[str | None]:
    asked = ReportOptions(full_stacks=full_stacks, depth=depth)
    return [frame.function for frame in readable(made, asked).frames]


NEW = "operator new(unsigned long)"
ALLOCATE = "__gnu_cxx::new_allocator<int>::allocate(unsigned long, void const*)"


@pytest.mark.parametrize("name", [NEW, ALLOCATE, "__rust_alloc", "alloc::alloc::alloc", "malloc"])
def test_wrappers(name: str) -> None:
    assert is_plumbing(Frame(1, function=name))


@pytest.mark.parametrize("name", ["main", "my_malloc", "malloc_pool", "operator_new_order", None])
def test_other_functions(name: str | None) -> None:
    assert not is_plumbing(Frame(1, function=name))


def test_the_caller_of_wrappers_comes_first() -> None:
    assert shown(stack(NEW, ALLOCATE, "fill", NEW, "main")) == ["fill", NEW, "main"]


def test_full_stacks_keep_them() -> None:
    assert shown(stack(NEW, "fill", "main"), full_stacks=True) == [NEW, "fill", "main"]


def test_a_stack_of_nothing_else_stays() -> None:
    assert shown(stack(NEW, ALLOCATE)) == [NEW, ALLOCATE]


def test_depth_counts_frames_and_keeps_what_is_inlined_in_them() -> None:
    made = stack("a", "b", "c", "d", "main", inlined=("a", "c"))
    assert shown(made, depth=1) == ["a", "b"]
    assert shown(made, depth=2) == ["a", "b", "c", "d"]
    assert shown(made, depth=9) == ["a", "b", "c", "d", "main"]
    assert shown(stack(), depth=3) == []
