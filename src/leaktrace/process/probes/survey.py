"""Allocators in the objects of a target that aren't hooked, found while the objects are planned.

There are two kinds: an object that defines an allocator with other names (families.py), and a
library whose malloc is hooked but that has other allocation functions, which another object of the
target imports: mi_malloc_aligned of libmimalloc.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leaktrace.elf.object import ElfObject
from leaktrace.elf.symbols import FunctionSymbol, RawSymbols
from leaktrace.model import Remark, RemarkKind
from leaktrace.process.probes.families import (
    Found,
    calls_in,
    destroying_calls_in,
    families_in,
)

_NAMED = 3  # functions in a remark
_ALL_OTHERS = "leaktrace doctor -p PID lists what is hooked"


@dataclass(frozen=True)
class Surveyed:
    """What an object has, or calls, that isn't hooked."""

    found: tuple[Found, ...]
    unhooked: Collection[str]  # its allocation functions that aren't hooked
    calls: Collection[str]  # such functions of other objects, which it imports
    destroys: Collection[str]  # imported functions that release many blocks at once

    @property
    def is_empty(self) -> bool:
        return not (self.found or self.unhooked or self.calls or self.destroys)


def survey_object(
    elf: ElfObject,
    tables: Sequence[RawSymbols],
    functions: Mapping[str, FunctionSymbol],
    hooked: Collection[int],
) -> Surveyed:
    """Examine an object: its symbol tables, the functions of MARKS that it defines, and the virtual
    addresses of the functions that are hooked in it."""
    sections = {section.name for section in elf.sections}
    found = families_in(tables, functions, sections, hooked)
    unhooked: set[str] = set()
    if hooked:
        defined = calls_in(tables, defined=True)
        unhooked = {name for name, vaddr in defined.items() if vaddr not in hooked}
    calls = calls_in(tables, defined=False)
    return Surveyed(found, unhooked, frozenset(calls), destroying_calls_in(tables))


@dataclass(frozen=True)
class _Object:
    path: str
    surveyed: Surveyed

    @property
    def name(self) -> str:
        return Path(self.path).name


class Survey:
    """The objects of one target that have, or call, an allocator with other names."""

    def __init__(self) -> None:
        self._objects: list[_Object] = []

    def add(self, path: str, surveyed: Surveyed) -> None:
        """An object was examined."""
        if not surveyed.is_empty:
            self._objects.append(_Object(path, surveyed))

    def forget(self) -> None:
        """Forget all objects: they are going to be examined again."""
        self._objects.clear()

    def has_runtime(self, is_mapped: Callable[[str], bool]) -> bool:
        """Whether a mapped object has a heap of objects of its own: that of Go, Java, V8…."""
        mapped = [one.surveyed for one in self._objects if is_mapped(one.path)]
        return any(found.is_runtime for one in mapped for found in one.found)

    def remarks(self, is_mapped: Callable[[str], bool]) -> Iterator[Remark]:
        """A remark for each mapped object with an allocator that isn't hooked."""
        mapped = [one for one in self._objects if is_mapped(one.path)]
        wanted = {name for one in mapped for name in one.surveyed.calls}
        for one in mapped:
            surveyed = one.surveyed
            allocators = [found for found in surveyed.found if not found.is_runtime]
            if allocators:
                yield _of_allocators(one.name, allocators)
            for found in surveyed.found:
                if found.is_runtime:
                    yield _of_runtime(one.name, found)
            called = sorted(wanted.intersection(surveyed.unhooked))
            if called:
                yield _of_calls(one.name, called)
            if surveyed.destroys:
                yield _of_destroyed(one.name, sorted(surveyed.destroys))


def _of_allocators(name: str, found: Sequence[Found]) -> Remark:
    which = "; ".join(f"{one.family}, as {one.function}" for one in found)
    plural = "" if len(found) == 1 else "s"
    return Remark(
        RemarkKind.UNHOOKED_ALLOCATOR,
        f"{name} has its own allocator{plural}, not hooked ({which}): what is allocated there "
        "is missing from these figures, or included only as mapped memory",
        f"try --faults, which needs no hooks; {_ALL_OTHERS}",
    )


def _of_runtime(name: str, found: Found) -> Remark:
    return Remark(
        RemarkKind.UNHOOKED_ALLOCATOR,
        f"{name} has its own heap, not hooked ({found.family}): its objects are missing from "
        "these figures, or included only as mapped memory",
        f"try --faults, which shows where that memory grows; {found.advice}",
    )


def _of_calls(name: str, called: Sequence[str]) -> Remark:
    shown = ", ".join(called[:_NAMED])
    rest = f" and {len(called) - _NAMED} more" if len(called) > _NAMED else ""
    are = "are" if len(called) > 1 else "is"
    return Remark(
        RemarkKind.UNHOOKED_ALLOCATOR,
        f"{shown}{rest} of {name} {are} called and not hooked: what is allocated there may be "
        "missing from these figures",
        f"try --faults, which needs no hooks; {_ALL_OTHERS}",
    )


def _of_destroyed(name: str, called: Sequence[str]) -> Remark:
    return Remark(
        RemarkKind.UNHOOKED_ALLOCATOR,
        f"{name} calls {' and '.join(called)}, which releases all blocks of a heap at once and is "
        "not seen: those blocks may still be in these figures",
        "check whether the heap of a site was destroyed before you call its blocks a leak",
    )
