"""The probes of one object: which functions get one, on which instructions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache, cached_property, partial
from pathlib import Path

from leaktrace.abi.process import Action, Function
from leaktrace.arch.machines import is_decoded, this_machine
from leaktrace.bpf import support
from leaktrace.cache.directory import user_cache_directory
from leaktrace.elf.object import ElfObject
from leaktrace.elf.symbols import FunctionSymbol
from leaktrace.errors import ObjectFileError
from leaktrace.process.probes.allocators import (
    ANY_ENTRY_PROGRAM,
    C_LIBRARY,
    HEAP,
    REGIONS,
    Hook,
)
from leaktrace.process.probes.find_allocators import FoundAllocator, find_allocators
from leaktrace.process.probes.find_points import FrameRules, PointFinder
from leaktrace.process.probes.other_allocators import KNOWN_SIGNATURES
from leaktrace.process.probes.placement import Placement, place_in
from leaktrace.process.probes.point import Point
from leaktrace.process.probes.point_cache import Found, PointCache, found_by
from leaktrace.process.probes.shape import Signature
from leaktrace.targets.mappings import Mapping as MemoryMapping
from leaktrace.unwind.budget import NotBuiltError, TableBudget
from leaktrace.unwind.cache import TableCache


class Way(Enum):
    """How calls are followed."""

    POINTS = "points"  # of functions that have points; of the others as below
    SAFE_RETURNS = "safe returns"  # return probes on functions through which nothing unwinds
    RETURNS = "returns"  # return probes on all functions: for comparison


def best_way() -> Way:
    """The best way that this machine supports: points need attach cookies and a decoder."""
    machine = this_machine()
    can = machine is not None and machine.has_decoder and support.has_attach_cookie()
    return Way.POINTS if can else Way.SAFE_RETURNS


@dataclass(frozen=True)
class Probe:
    """A hook whose entry is probed, and its return if the hook needs it. `offset` is that of the
    instruction that carries the probe, in the file."""

    hook: Hook
    entry: int  # virtual address
    placement: Placement
    offset: int
    reason: str = ""  # why a call is not followed by points


@dataclass(frozen=True)
class PointProbe:
    """A probe inside a function, and its offset in the file."""

    point: Point
    offset: int
    space: int = 0  # of its hook


@dataclass(frozen=True)
class Followed:
    """A hook whose calls are followed by points: those on the paths through the function."""

    hook: Hook
    entry: int  # virtual address
    entry_offset: int  # in the file
    probes: tuple[PointProbe, ...]

    @property
    def is_stepped(self) -> bool:
        """Whether every end of a call costs two traps."""
        ends = [one.point.emulated for one in self.probes if one.point.action is not Action.BEGIN]
        return bool(ends) and not any(ends)


@dataclass(frozen=True)
class LeftOut:
    """A hook that can't be probed without harm, and why."""

    hook: Hook
    reason: str


@dataclass(frozen=True)
class ObjectPlan:
    """The probes of one object. The object stays open until they are attached."""

    path: str  # as the target sees it
    elf: ElfObject
    probes: tuple[Probe, ...]  # of releases, and of calls with a return probe
    followed: tuple[Followed, ...]
    missing: tuple[str, ...]  # functions that the object doesn't define
    left_out: tuple[LeftOut, ...] = ()
    identity: tuple[str, int] | None = None  # device and inode, if it was found mapped

    @property
    def name(self) -> str:
        return Path(self.path).name

    def is_mapped_as(self, mapping: MemoryMapping) -> bool:
        """Whether a mapping is of exactly this file."""
        if self.identity is not None:
            return (mapping.device, mapping.inode) == self.identity
        return mapping.is_file and mapping.path in self._paths

    @cached_property
    def _paths(self) -> frozenset[str]:
        """Its path in mappings: the kernel follows links (/lib to /usr/lib)."""
        return frozenset({self.path, str(Path(self.path).resolve())})

    def code_in(self, mappings: Iterable[MemoryMapping]) -> list[MemoryMapping]:
        """Where a process has mapped its code."""
        return [m for m in mappings if m.is_executable and self.is_mapped_as(m)]

    @property
    def is_allocator(self) -> bool:
        """Whether it allocates memory. The plan of the dynamic loader (loader_probes.py) doesn't,
        nor do those of where programs start and exit (program_ends.py)."""
        hooks = [
            *(one.hook for one in self.probes),
            *(one.hook for one in self.followed),
            *(one.hook for one in self.left_out),
        ]
        others = (Function.NONE, Function.START, Function.EXIT)
        return any(hook.function not in others and not hook.space for hook in hooks)

    @property
    def is_of_pairs(self) -> bool:
        """Whether its functions are those of --pair."""
        hooks = [
            *(one.hook for one in self.probes),
            *(one.hook for one in self.followed),
            *(one.hook for one in self.left_out),
        ]
        return any(hook.space for hook in hooks)

    @property
    def attach_path(self) -> str:
        """A path of exactly the file that was read, even if its own path names another file now."""
        return f"/proc/self/fd/{self.elf.descriptor}"

    @property
    def symbols(self) -> tuple[str, ...]:
        """The functions that are hooked."""
        followed = (one.hook.symbol for one in self.followed)
        return (*followed, *(one.hook.symbol for one in self.probes))

    @property
    def required(self) -> tuple[str, ...]:
        """Those that allocate and release most: malloc and free."""
        hooks = [*(one.hook for one in self.followed), *(one.hook for one in self.probes)]
        return tuple(hook.symbol for hook in hooks if hook.is_required)

    @property
    def hooked(self) -> frozenset[int]:
        """Virtual addresses of the functions that are hooked."""
        entries = (one.entry for one in self.probes)
        return frozenset((*entries, *(one.entry for one in self.followed)))

    @property
    def stepped(self) -> tuple[str, ...]:
        """Functions whose every call hits a probe on an instruction that the kernel executes out of
        line."""
        entries = (one.hook.symbol for one in self.probes if not one.placement.emulated)
        return (*entries, *(one.hook.symbol for one in self.followed if one.is_stepped))

    def point_probes(self) -> list[PointProbe]:
        """All points, each once, in the order in which they are attached: ends before begins, so
        that a call whose begin is seen can also be seen to end."""
        found: dict[tuple[int, int | None, bool, int], PointProbe] = {}
        for probe in (probe for one in self.followed for probe in one.probes):
            point = probe.point
            key = (probe.offset, point.condition, point.action is Action.BEGIN, probe.space)
            known = found.get(key)
            if known is None or point.action is Action.BOTH:
                found[key] = probe  # a both point also ends what is open
            elif known.point.action is Action.END and point.may_be_unopened:
                found[key] = replace(known, point=replace(known.point, may_be_unopened=True))
        order = (Action.END, Action.LEAVE, Action.BOTH, Action.BEGIN)
        return sorted(found.values(), key=lambda probe: order.index(probe.point.action))


def plan_object(
    elf: ElfObject,
    path: str,
    prefix: str = "",
    *,
    way: Way = Way.POINTS,
    allocators: Sequence[FoundAllocator] | None = None,
    budget: TableBudget | None = None,
) -> ObjectPlan | None:
    """The probes of one object, None if it has no allocator. `allocators` are those that
    `find_allocators` finds in it, if that is known.

    Functions that share their code (aligned_alloc and memalign, mmap and mmap64) get one probe. A
    function that can't be followed by points gets a return probe if that is safe, else none. If an
    allocator's required functions can't be probed, the allocator is left out.
    """
    if allocators is None:
        allocators, _ = find_allocators(elf.symbol_tables(), prefix)
    allocators = [one for one in allocators if _sees_releases(one)]
    if not allocators:
        return None
    entries, missing = _entries(elf, allocators)
    found_points = _points_by_entry(elf, entries, way, budget)
    probes: list[Probe] = []
    followed: list[Followed] = []
    left_out: list[LeftOut] = []
    for vaddr, (hook, symbol, entry) in entries.items():
        points = found_points.get(vaddr, "")
        if hook.has_return and not isinstance(points, str):
            followed.append(Followed(hook, vaddr, entry, tuple(point_probes(elf, points))))
            continue
        reason = points if isinstance(points, str) else ""
        if way is not Way.RETURNS and hook.has_return and not hook.is_c:
            left_out.append(LeftOut(hook, reason or "its calls can't be followed on this machine"))
            continue
        if hook.has_return and not _has_program(hook):
            left_out.append(LeftOut(hook, "this kernel can't tell how its arguments are used"))
            continue
        placement = place_in(elf, symbol, hook.argument_count)
        if placement.refused:
            if hook.is_required:
                rest = [one for one in allocators if hook.symbol not in one.allocator.required]
                return plan_object(elf, path, way=way, allocators=rest, budget=budget)
            left_out.append(LeftOut(hook, placement.reason))
            continue
        probes.append(Probe(hook, vaddr, placement, entry + placement.offset, reason))
    return ObjectPlan(path, elf, tuple(probes), tuple(followed), missing, tuple(left_out))


_Entries = dict[int, tuple[Hook, FunctionSymbol, int]]


def _entries(
    elf: ElfObject, allocators: Iterable[FoundAllocator]
) -> tuple[_Entries, tuple[str, ...]]:
    """What is hooked, by virtual address, with its offset in the file. And the usual functions that
    are missing."""
    entries: _Entries = {}
    usual: set[str] = set()
    for found in allocators:
        for hook in found.hooks:
            symbol = found.functions[hook.symbol]
            entry = elf.vaddr_to_offset(symbol.vaddr)
            if entry is not None:
                entries.setdefault(symbol.vaddr, (hook, symbol, entry))
                usual.add(hook.symbol)
    if not any(found.allocator is C_LIBRARY for found in allocators):
        return entries, ()
    return entries, tuple(one.symbol for one in (*HEAP, *REGIONS) if one.symbol not in usual)


def _points_by_entry(
    elf: ElfObject, entries: _Entries, way: Way, budget: TableBudget | None
) -> dict[int, Found]:
    """The points of functions, or why they have none."""
    if way is not Way.POINTS or not is_decoded(elf.machine):
        return {}
    kinds = {vaddr: hook.signature for vaddr, (hook, _, _) in entries.items()}
    names = KNOWN_SIGNATURES | {hook.symbol: hook.signature for hook, _, _ in entries.values()}
    calls = [vaddr for vaddr, (hook, _, _) in entries.items() if hook.has_return]
    try:
        return PointCache(user_cache_directory()).points_of(
            elf,
            kinds,
            lambda: _find_points(elf, kinds, names, calls, frame_rules(elf, budget)),
            names,
        )
    except NotBuiltError:  # another run may have the time for it: nothing is cached
        return _find_points(elf, kinds, names, calls, None)


@cache
def _has_cookies() -> bool:
    return support.has_attach_cookie()


def _sees_releases(found: FoundAllocator) -> bool:
    """Whether every function that may release a block can be hooked. Otherwise blocks would be
    reported that were released."""
    return all(_has_program(hook) for hook in found.hooks if hook.shape.moves_block)


def _has_program(hook: Hook) -> bool:
    return hook.program != ANY_ENTRY_PROGRAM or _has_cookies()


def _find_points(
    elf: ElfObject,
    functions: Mapping[int, Signature],
    names: Mapping[str, Signature],
    calls: Iterable[int],
    rules: FrameRules | None,
) -> dict[int, Found]:
    finder = PointFinder(elf, functions, names, rules)
    return {vaddr: found_by(partial(finder.find, vaddr)) for vaddr in calls}


def point_probes(elf: ElfObject, points: Iterable[Point], space: int = 0) -> Iterator[PointProbe]:
    """The probes of these points. `space`: of their hook."""
    for point in points:
        offset = elf.vaddr_to_offset(point.vaddr)
        assert offset is not None  # its instruction was read there
        yield PointProbe(point, offset, space)


def frame_rules(elf: ElfObject, budget: TableBudget | None) -> FrameRules | None:
    """The object's unwind information, None where it has none or it isn't understood.

    Raises NotBuiltError if it exceeds `budget`.
    """
    try:
        return TableCache(user_cache_directory()).table_for(elf, budget)
    except NotBuiltError:
        raise
    except ObjectFileError:
        return None
