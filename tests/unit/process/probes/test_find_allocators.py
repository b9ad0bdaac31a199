"""Which allocators an object has: by names that no wrapper of malloc has."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from assembled import Make

from leaktrace.abi.process import Outcome
from leaktrace.elf.object import ElfObject
from leaktrace.process.probes.allocators import C_LIBRARY
from leaktrace.process.probes.find_allocators import find_allocators
from leaktrace.process.probes.object_plan import plan_object
from leaktrace.process.probes.other_allocators import OTHERS, after_heap
from leaktrace.process.probes.shape import Shape

JEMALLOC = ("malloc", "free", "calloc", "realloc", "mallocx", "rallocx", "xallocx", "sdallocx")
USUAL = ("malloc", "free", "calloc", "realloc")
USABLE = "malloc_usable_size"


def after(prefix: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(prefix + name for name in names)


def found_in(path: Path) -> dict[str, set[str]]:
    """The functions of each allocator."""
    with ElfObject.open(path) as elf:
        found, _ = find_allocators(elf.symbol_tables())
        return {one.allocator.name: {hook.symbol for hook in one.hooks} for one in found}


@pytest.mark.parametrize("prefix", ["_rjem_", "je_", "je_arrow_", "duckdb_je_"])
def test_jemalloc_with_any_prefix(prefix: str, make: Make) -> None:
    """Also where the object calls malloc."""
    path = make(*after(prefix, JEMALLOC), called=("malloc",))
    assert found_in(path) == {prefix: set(after(prefix, JEMALLOC))}


def test_the_release_that_jemallocs_operator_delete_calls(make: Make) -> None:
    for name in ("je_je_sdallocx_noflags", "x_private_je_je_sdallocx_noflags"):
        assert found_in(make(*after("x_", JEMALLOC), name))["x_"] == {*after("x_", JEMALLOC), name}


def test_the_names_of_the_c_library_with_a_prefix(make: Make) -> None:
    path = make(*after("dl", USUAL), "dlmalloc_usable_size", called=("mmap", "free"))
    assert found_in(path) == {"dl": set(after("dl", USUAL))}


@pytest.mark.parametrize("called", ["malloc", "calloc", "realloc", "posix_memalign"])
def test_what_calls_the_c_librarys_functions_is_a_wrapper(called: str, make: Make) -> None:
    assert found_in(make(*after("z", USUAL), "zmalloc_usable_size", called=(called,))) == {}


def test_wrappers_next_to_the_functions_that_they_call(make: Make) -> None:
    """As in a static program."""
    path = make(*USUAL, USABLE, *after("z", USUAL), "zmalloc_usable_size")
    assert found_in(path) == {C_LIBRARY.name: set(USUAL)}


@pytest.mark.parametrize(
    "names",
    [
        after("g_", USUAL),
        after("x", (*USUAL, "memalign")),
        ("PyMem_Malloc", "PyMem_Free", "PyMem_Calloc", "PyMem_Realloc"),
        ("sqlite3_malloc", "sqlite3_free", "sqlite3_realloc", "sqlite3_msize"),
        ("my_mallocx", "my_malloc"),  # and no release
        ("mi_malloc", "mi_free", "PyObject_Malloc"),  # CPython's copy of mimalloc
        ("mspace_malloc", "mspace_free", "mspace_calloc", "mspace_realloc"),
        ("rpmalloc", "rpcalloc"),
    ],
)
def test_what_is_not_hooked(names: tuple[str, ...], make: Make) -> None:
    assert found_in(make(*names)) == {}


def test_several_in_one_object(make: Make) -> None:
    path = make("malloc", "free", "mi_malloc", "mi_free", "mi_zalloc", *after("_rjem_", JEMALLOC))
    assert found_in(path) == {
        C_LIBRARY.name: {"malloc", "free"},
        "mimalloc": {"mi_malloc", "mi_free", "mi_zalloc"},
        "_rjem_": set(after("_rjem_", JEMALLOC)),
    }


def test_a_chosen_prefix_alone_is_looked_for(make: Make) -> None:
    path = make("malloc", "free", "mi_malloc", "mi_free", "my_malloc", "my_free")
    with ElfObject.open(path) as elf:
        found, _ = find_allocators(elf.symbol_tables(), "my_")
    assert [one.allocator.required for one in found] == [("my_malloc", "my_free")]


def test_functions_of_one_address_get_one_probe(make: Make) -> None:
    alias = 'void *mi_malloc(long) __attribute__((alias("malloc")));'
    path = make("malloc", "free", "mi_free", extra=f"void *malloc(long); {alias}")
    with ElfObject.open(path) as elf:
        plan = plan_object(elf, str(path))
    assert plan is not None
    assert set(plan.symbols) == {"malloc", "free", "mi_free"}
    assert set(plan.required) == {"malloc", "free", "mi_free"}


def test_each_function_is_in_one_line_of_the_tables() -> None:
    names = Counter(hook.symbol for one in (C_LIBRARY, *OTHERS) for hook in one.functions)
    assert [name for name, count in names.items() if count > 1] == []


def test_every_allocator_has_what_it_requires() -> None:
    for one in (C_LIBRARY, *OTHERS):
        allocate, release = (
            next(hook for hook in one.functions if hook.symbol == name) for name in one.required
        )
        assert allocate.has_return, one.name
        assert allocate.shape.size, one.name
        assert not release.has_return, one.name
        assert [hook.symbol for hook in one.hooks if hook.is_required] == [
            hook.symbol for hook in one.functions if hook.symbol in one.required
        ]


def test_a_heap_before_the_other_arguments() -> None:
    assert after_heap(Shape(size=1)) == Shape(size=2)
    shape = Shape(old=1, count=2, size=3, outcome=Outcome.BLOCK_OR_FREED)
    assert after_heap(shape) == Shape(old=2, count=3, size=4, outcome=Outcome.BLOCK_OR_FREED)
