"""Allocators and runtimes of which nothing is hooked, recognized by their symbols.

leaktrace hooks functions by their names (allocators.py, other_allocators.py). The blocks of an
allocator with other names are missing in the figures, and so are those of an allocator whose
functions can't be hooked. So that a report can say so, each object's symbols are searched for the
names below in the pass that finds what to hook. To support another one, add a line here.

Wrappers that call malloc (g_malloc, sqlite3_malloc, zmalloc) are not allocators and don't belong
here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from leaktrace.elf.symbols import (
    FunctionSymbol,
    RawSymbols,
    find_functions,
    functions_beginning_with,
    functions_ending_in,
)
from leaktrace.process.probes.allocators import REQUIRED


@dataclass(frozen=True)
class Family:
    """An allocator, or the heap of a language runtime, recognized by functions that it defines."""

    name: str
    marks: tuple[str, ...]  # an object that defines one of these has it
    calls: str = ""  # pattern of functions by which other objects allocate
    beginning: str = ""  # of all names that match `calls`; at most eight letters
    is_runtime: bool = False  # a heap of objects that C code doesn't allocate
    advice: str = ""  # a tool that shows more than leaktrace can
    unless: tuple[str, ...] = ()  # with one of these in the same object, it isn't used
    sections: tuple[str, ...] = ()  # as `marks`, for objects without symbols
    # Where it replaces malloc, its own function and malloc are the same. (Others have a malloc that
    # calls their own function; whether other code calls that function isn't known.)
    is_malloc_by_alias: bool = False


_SIZED = r"(?!\w*size$)"  # returns a size, not memory

FAMILIES = (
    Family(
        "mimalloc",
        ("mi_malloc", "mi_heap_malloc"),
        _SIZED + r"mi_(?!heap_new)\w*(?:alloc|new|dup|realpath|expand|memalign)\w*",
        "mi_",
        # CPython has a copy, which only builds without the global lock use.
        unless=("PyObject_Malloc",),
        is_malloc_by_alias=True,
    ),
    Family(
        "tcmalloc",
        ("tc_malloc", "TCMallocInternalMalloc"),
        _SIZED + r"tc_(?:\w*alloc|memalign|posix_memalign|new)\w*",
        "tc_",
        is_malloc_by_alias=True,
    ),
    Family("rpmalloc", ("rpmalloc",), _SIZED + r"rp\w*(?:alloc|memalign)\w*", "rp"),
    Family("snmalloc", ("sn_malloc", "sn_rust_alloc"), r"sn_\w*alloc\w*", "sn_"),
    Family("scudo", ("scudo_malloc",), _SIZED + r"scudo_\w*(?:alloc|memalign)\w*", "scudo_"),
    Family("nedmalloc", ("nedmalloc",), _SIZED + r"ned\w*alloc\w*", "ned"),
    Family(
        "the Boehm collector",
        ("GC_malloc",),
        _SIZED + r"GC_(?!set_|get_)\w*(?:alloc|dup|memalign)\w*",
        "GC_",
        advice="with GC_PRINT_STATS=1 the collector prints the size of its heap",
    ),
    Family(
        "Go",
        ("runtime.mallocgc",),
        is_runtime=True,
        advice="`leaktrace go -p PID` shows its objects and goroutines",
        sections=(".gopclntab", ".data.rel.ro.gopclntab"),
    ),
    Family(
        "Java",
        ("JNI_CreateJavaVM", "graal_create_isolate"),
        is_runtime=True,
        advice="jcmd PID GC.class_histogram shows its objects",
    ),
    Family(
        "V8",
        ("_ZN2v87Isolate3NewERKNS0_12CreateParamsE",),
        is_runtime=True,
        advice="a heap snapshot (node --inspect) shows its objects",
    ),
    Family(
        ".NET",
        ("coreclr_initialize", "mono_jit_init"),
        is_runtime=True,
        advice="dotnet-gcdump shows its objects",
    ),
    Family("Erlang", ("enif_alloc",), is_runtime=True, advice="recon_alloc shows its memory"),
)

# They release all blocks of a heap without a call for each.
_DESTROYING = ("mi_heap_destroy", "mi_subproc_destroy")

# Every build of jemalloc has these two, with any prefix (_rjem_, je_, je_arrow_).
_JEMALLOC_MARKS = ("mallocx", "rallocx")

# Names that each object is searched for, in addition to what may be hooked.
MARKS = tuple(
    dict.fromkeys(name for family in FAMILIES for name in (*family.marks, *family.unless))
)
_CALLS = tuple((family, re.compile(family.calls)) for family in FAMILIES if family.calls)


@dataclass(frozen=True)
class Found:
    """An allocator in an object, none of whose functions has a probe."""

    family: str
    function: str  # by which it allocates; "" where it has no symbols
    is_runtime: bool = False
    advice: str = ""


def families_in(
    tables: Sequence[RawSymbols],
    functions: Mapping[str, FunctionSymbol],
    sections: Collection[str],
    hooked: Collection[int],
) -> tuple[Found, ...]:
    """The allocators of an object. `functions` has malloc and those of MARKS, if it defines them;
    `hooked` are the virtual addresses of functions that are hooked in it."""
    found = []
    malloc = functions.get(REQUIRED[0])
    is_malloc_hooked = malloc is not None and malloc.vaddr in hooked
    for family in FAMILIES:
        here = [functions[name] for name in family.marks if name in functions]
        if any(one.vaddr in hooked for one in here) or any(
            name in functions for name in family.unless
        ):
            continue
        if is_malloc_hooked and not (family.is_runtime or family.is_malloc_by_alias):
            continue
        if here or any(name in sections for name in family.sections):
            function = here[0].name if here else ""
            found.append(Found(family.name, function, family.is_runtime, advice=family.advice))
    found += _prefixed_jemallocs(tables, hooked)
    return tuple(found)


def _prefixed_jemallocs(tables: Sequence[RawSymbols], hooked: Collection[int]) -> Iterator[Found]:
    allocate, resize = _JEMALLOC_MARKS
    prefixes = {name.removesuffix(allocate) for name in functions_ending_in(tables, allocate)}
    if not prefixes - {""}:
        return
    prefixes &= {name.removesuffix(resize) for name in functions_ending_in(tables, resize)}
    for prefix in sorted(prefixes - {""}):
        here = find_functions(tables, (prefix + REQUIRED[0], prefix + allocate))
        if not any(one.vaddr in hooked for one in here.values()):
            yield Found("jemalloc", next(iter(here)))


def destroying_calls_in(tables: Sequence[RawSymbols]) -> frozenset[str]:
    """Functions that an object imports and that release many blocks at once."""
    imported = functions_beginning_with(tables, ("mi_heap_", "mi_subpr"), defined=False)
    return frozenset(imported.keys() & set(_DESTROYING))


def calls_in(tables: Sequence[RawSymbols], *, defined: bool) -> dict[str, int]:
    """Functions by which allocators of the table allocate, with their virtual addresses: those that
    an object defines, or, not `defined`, those that it imports."""
    beginnings = [family.beginning for family, _ in _CALLS]
    named = functions_beginning_with(tables, beginnings, defined=defined)
    return {
        name: vaddr
        for name, vaddr in named.items()
        if any(pattern.fullmatch(name) for _, pattern in _CALLS)
    }
