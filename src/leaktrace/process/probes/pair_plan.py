"""The probes of one object on functions that the user named (--pair)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from leaktrace.abi.process import Function
from leaktrace.arch.machines import is_decoded
from leaktrace.cache.directory import user_cache_directory
from leaktrace.elf.object import ElfObject
from leaktrace.elf.symbols import FunctionSymbol, RawSymbols, all_functions
from leaktrace.errors import LeaktraceError, ObjectFileError
from leaktrace.options import Pair
from leaktrace.process.probes.allocators import Hook
from leaktrace.process.probes.find_points import FrameRules, PointFinder
from leaktrace.process.probes.object_plan import (
    Followed,
    ObjectPlan,
    Probe,
    Way,
    frame_rules,
    point_probes,
)
from leaktrace.process.probes.placement import place_in
from leaktrace.process.probes.point_cache import Found, PointCache, found_by
from leaktrace.process.probes.shape import Shape
from leaktrace.unwind.budget import NotBuiltError, TableBudget


@dataclass(frozen=True)
class NumberedPair:
    """A pair and its number, from 1: the space of its records (bpf/process/types.h)."""

    space: int
    pair: Pair


@dataclass(frozen=True)
class PairFunctions:
    """The functions of one pair that an object defines: several have the same name if there are
    several versions, or if they are static."""

    numbered: NumberedPair
    allocate: tuple[FunctionSymbol, ...]
    release: tuple[FunctionSymbol, ...]

    @property
    def is_empty(self) -> bool:
        return not self.allocate and not self.release


def functions_of(
    tables: Sequence[RawSymbols], pairs: Iterable[NumberedPair]
) -> list[PairFunctions]:
    """The functions of these pairs that an object defines; pairs without any are left out."""
    found = (
        PairFunctions(
            one, all_functions(tables, one.pair.allocate), all_functions(tables, one.pair.release)
        )
        for one in pairs
    )
    return [one for one in found if not one.is_empty]


def plan_pairs(
    elf: ElfObject,
    path: str,
    found: Sequence[PairFunctions],
    *,
    way: Way,
    budget: TableBudget | None,
    identity: tuple[str, int] | None = None,
) -> ObjectPlan:
    """The probes on these functions.

    Raises ObjectFileError for a function that can't be probed, or not without harm.
    """
    probes: list[Probe] = []
    followed: list[Followed] = []
    for one in found:
        pair, space = one.numbered.pair, one.numbered.space
        release = Hook(
            pair.release,
            Function.FREE,
            Shape(old=pair.handle_argument),
            has_return=False,
            space=space,
        )
        probes += [_probe(elf, path, release, symbol) for symbol in one.release]
        allocate = Hook(
            pair.allocate,
            Function.PAIR,
            Shape(size=pair.size_argument),
            is_c=False,
            space=space,
        )
        if way is Way.RETURNS:
            probes += [_probe(elf, path, allocate, symbol) for symbol in one.allocate]
        else:
            followed += _followed(elf, path, allocate, one.allocate, budget)
    return ObjectPlan(path, elf, tuple(probes), tuple(followed), (), identity=identity)


def _probe(elf: ElfObject, path: str, hook: Hook, symbol: FunctionSymbol) -> Probe:
    entry = _entry(elf, path, symbol)
    placement = place_in(elf, symbol, hook.argument_count)
    if placement.refused:
        raise _unfit(path, symbol, placement.reason)
    return Probe(hook, symbol.vaddr, placement, entry + placement.offset)


def _followed(
    elf: ElfObject,
    path: str,
    hook: Hook,
    symbols: Sequence[FunctionSymbol],
    budget: TableBudget | None,
) -> list[Followed]:
    """A function's calls, by points within it. It may throw, or switch stacks: a return probe could
    harm the process."""
    if not symbols:
        return []
    if not is_decoded(elf.machine):
        raise _unfit(path, symbols[0], "the code of this machine isn't decoded")
    entries = {symbol.vaddr: _entry(elf, path, symbol) for symbol in symbols}
    hooked = dict.fromkeys(entries, hook.signature)
    names = {hook.symbol: hook.signature}

    def find(rules: FrameRules | None) -> dict[int, Found]:
        finder = PointFinder(elf, hooked, names, rules)
        return {vaddr: found_by(partial(finder.find, vaddr)) for vaddr in entries}

    try:
        points = PointCache(user_cache_directory()).points_of(
            elf, hooked, lambda: find(frame_rules(elf, budget)), names
        )
    except NotBuiltError:  # as in plan_object
        points = find(None)
    followed = []
    for symbol in symbols:
        one = points.get(symbol.vaddr, "")
        if isinstance(one, str):
            raise _unfit(path, symbol, one, can_be_awaited=True)
        probes = tuple(point_probes(elf, one, hook.space))
        followed.append(Followed(hook, symbol.vaddr, entries[symbol.vaddr], probes))
    return followed


def _entry(elf: ElfObject, path: str, symbol: FunctionSymbol) -> int:
    """Where a function is in the file."""
    if symbol.is_ifunc:
        raise _unfit(path, symbol, "its code is chosen when the program starts (IFUNC)")
    entry = elf.vaddr_to_offset(symbol.vaddr)
    if entry is None:
        raise _unfit(path, symbol, "its code isn't in the file")
    return entry


def _unfit(
    path: str, symbol: FunctionSymbol, why: str, *, can_be_awaited: bool = False
) -> LeaktraceError:
    hint = "name another function of the same objects: one that it calls, or that calls it"
    if can_be_awaited:
        hint = (
            "--probe-returns follows it with a return probe: only if nothing throws an exception "
            "through it or switches stacks in it"
        )
    return ObjectFileError(f"{symbol.name} of {path} can't be followed: {why}", hint)
