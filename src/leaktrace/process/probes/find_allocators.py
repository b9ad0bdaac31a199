"""The allocators that an object has, by the names of the functions that it defines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from leaktrace.elf.symbols import (
    FunctionSymbol,
    RawSymbols,
    find_functions,
    functions_beginning_with,
    functions_ending_in,
)
from leaktrace.process.probes.allocators import (
    C_LIBRARY,
    EXTENDED,
    HEAP,
    OPERATORS,
    REGIONS,
    REQUIRED,
    Allocator,
    Hook,
    release,
)
from leaktrace.process.probes.other_allocators import OTHERS, with_prefix

# jemalloc is built with any prefix, and always has this function.
_ONLY_JEMALLOC = "mallocx"
# So are other allocators with the names of the C library. A wrapper of malloc may have these names,
# too; hooking one could do harm, where the compiler has inlined a part of it. But an allocator
# doesn't call the C library's.
_NOT_ONLY_WRAPPERS = "malloc_usable_size"
_ALL_HAVE = ("calloc", "realloc", _NOT_ONLY_WRAPPERS)
_WRAPPERS_CALL = ("malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "memalign")
_MAX_BEGINNING = 8  # of `functions_beginning_with`
# The release of jemalloc that its own operator delete calls, which has another prefix.
_JEMALLOCS_DELETE = "je_sdallocx_noflags"


@dataclass(frozen=True)
class FoundAllocator:
    """An allocator, and the functions of it that an object defines, by symbol."""

    allocator: Allocator
    functions: Mapping[str, FunctionSymbol]

    @property
    def hooks(self) -> Iterator[Hook]:
        """What can be hooked."""
        return (hook for hook in self.allocator.hooks if hook.symbol in self.functions)


def find_allocators(
    tables: Sequence[RawSymbols], prefix: str = "", others: Iterable[str] = ()
) -> tuple[list[FoundAllocator], dict[str, FunctionSymbol]]:
    """The allocators of an object, the C library's first; with a prefix, only the one whose
    functions begin with it. And those of the functions `others` that it defines.

    A symbol that is resolved at run time (IFUNC) can't be located in the file, and counts as not
    defined.
    """
    if prefix:
        allocators = [with_prefix(prefix, (*HEAP, *REGIONS, *OPERATORS, *EXTENDED))]
    else:
        allocators = [C_LIBRARY, *OTHERS, *_prefixed(tables)]
    first, *rest = allocators
    asked = [name for one in rest for name in (*one.required, *one.unless)]
    known = find_functions(tables, (*first.names(), *asked, *others))
    found = []
    for one in allocators:
        if not all(_is_located(known.get(name)) for name in one.required):
            continue
        if any(name in known for name in one.unless):
            continue
        functions = known if one is first else find_functions(tables, one.names())
        found.append(FoundAllocator(one, _located(functions)))
    return found, known


def _is_located(symbol: FunctionSymbol | None) -> bool:
    return symbol is not None and not symbol.is_ifunc


def _located(functions: Mapping[str, FunctionSymbol]) -> dict[str, FunctionSymbol]:
    return {name: one for name, one in functions.items() if _is_located(one)}


def _prefixed(tables: Sequence[RawSymbols]) -> Iterator[Allocator]:
    jemallocs = _before(tables, _ONLY_JEMALLOC)
    others = _before(tables, _NOT_ONLY_WRAPPERS) - jemallocs
    if others and _calls_the_c_library(tables):
        others.clear()
    deletes = functions_ending_in(tables, _JEMALLOCS_DELETE) if jemallocs else ()
    for prefix in sorted(jemallocs):
        one = with_prefix(prefix)
        yield replace(one, functions=(*one.functions, *map(release, sorted(deletes))))
    for prefix in sorted(others):
        wanted = {prefix + name for name in _ALL_HAVE}
        if find_functions(tables, wanted).keys() == wanted:
            yield with_prefix(prefix)


def _before(tables: Sequence[RawSymbols], ending: str) -> set[str]:
    """What functions begin with that end so, except for allocators with tables of their own."""
    found = {name.removesuffix(ending) for name in functions_ending_in(tables, ending)}
    return found - {one.required[0].removesuffix(REQUIRED[0]) for one in (C_LIBRARY, *OTHERS)}


def _calls_the_c_library(tables: Sequence[RawSymbols]) -> bool:
    """Whether an object defines or imports a function of the C library that allocates."""
    beginnings = {name[:_MAX_BEGINNING] for name in _WRAPPERS_CALL}
    imported = functions_beginning_with(tables, beginnings, defined=False)
    return not imported.keys().isdisjoint(_WRAPPERS_CALL) or bool(
        find_functions(tables, _WRAPPERS_CALL)
    )
