"""The probes of one object: which functions get one, on which instructions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property, partial
from pathlib import Path

from leaktrace.abi.process import Action, Function
from leaktrace.arch.machines import is_decoded, this_machine
from leaktrace.bpf import support
from leaktrace.cache.directory import user_cache_directory
from leaktrace.elf.object import ElfObject
from leaktrace.elf.symbols import FunctionSymbol
from leaktrace.errors import ObjectFileError
from leaktrace.process.probes.allocators import HEAP, OPERATORS, REGIONS, REQUIRED, Hook
from leaktrace.process.probes.placement import Placement, place_in
from leaktrace.process.probes.point import Point
from leaktrace.process.probes.point_cache import Found, PointCache, found_by
from leaktrace.process.probes.points import FrameRules, PointFinder
from leaktrace.targets.mappings import Mapping as MemoryMapping
from leaktrace.unwind.budget import NotBuiltError, TableBudget
from leaktrace.unwind.cache import TableCache


class Way(Enum):
    """How calls are followed."""

    POINTS = "points"  # where they can be found; else as below
    SAFE_RETURNS = "safe returns"  # return probes on functions that nothing unwinds through
    RETURNS = "returns"  # return probes on all of them: for comparison


def best_way() -> Way:
    """What this machine can: points take cookies, and an instruction set that is understood."""
    machine = this_machine()
    can = machine is not None and machine.has_decoder and support.has_attach_cookie()
    return Way.POINTS if can else Way.SAFE_RETURNS


@dataclass(frozen=True)
class Probe:
    """A hook whose entry is probed, and its return if it has one that matters; the instruction
    that carries the probe, and that one's offset in the file."""

    hook: Hook
    entry: int  # virtual address
    placement: Placement
    offset: int
    reason: str = ""  # why a call is not followed by points


@dataclass(frozen=True)
class PointProbe:
    """A probe inside of functions, and its offset in the file."""

    point: Point
    offset: int


@dataclass(frozen=True)
class Followed:
    """A hook whose calls are followed by points: those that are met on its ways."""

    hook: Hook
    entry: int  # virtual address
    entry_offset: int  # in the file
    probes: tuple[PointProbe, ...]

    @property
    def is_stepped(self) -> bool:
        """Whether no call is seen to end without a second trap."""
        ends = [one.point.emulated for one in self.probes if one.point.action is not Action.BEGIN]
        return bool(ends) and not any(ends)


@dataclass(frozen=True)
class LeftOut:
    """A hook that can't be probed without harm, and why."""

    hook: Hook
    reason: str


@dataclass(frozen=True)
class ObjectPlan:
    """The probes of one object, which stays open until they are attached."""

    path: str  # as the target sees it
    elf: ElfObject
    probes: tuple[Probe, ...]  # of releases, and of calls whose return is awaited
    followed: tuple[Followed, ...]
    missing: tuple[str, ...]  # functions that the object doesn't define
    left_out: tuple[LeftOut, ...] = ()
    identity: tuple[str, int] | None = None  # device and inode, where it was seen mapped

    @property
    def name(self) -> str:
        return Path(self.path).name

    def is_mapped_as(self, mapping: MemoryMapping) -> bool:
        """Whether a mapping is of this very file."""
        if self.identity is not None:
            return (mapping.device, mapping.inode) == self.identity
        return mapping.is_file and mapping.path in self._paths

    @cached_property
    def _paths(self) -> frozenset[str]:
        """What a mapping may call it: the kernel follows links (/lib to /usr/lib)."""
        return frozenset({self.path, str(Path(self.path).resolve())})

    def code_in(self, mappings: Iterable[MemoryMapping]) -> list[MemoryMapping]:
        """Where a process has its instructions."""
        return [m for m in mappings if m.is_executable and self.is_mapped_as(m)]

    @property
    def is_allocator(self) -> bool:
        """Whether memory comes from it, and not only news (process/probes/loader.py)."""
        hooks = [
            *(one.hook for one in self.probes),
            *(one.hook for one in self.followed),
            *(one.hook for one in self.left_out),
        ]
        return any(hook.function is not Function.NONE for hook in hooks)

    @property
    def attach_path(self) -> str:
        """Names the very file that was read, whatever its path means by now."""
        return f"/proc/self/fd/{self.elf.descriptor}"

    @property
    def symbols(self) -> tuple[str, ...]:
        """The functions that are hooked."""
        followed = (one.hook.symbol for one in self.followed)
        return (*followed, *(one.hook.symbol for one in self.probes))

    @property
    def hooked(self) -> frozenset[int]:
        """Virtual addresses of the functions that are hooked."""
        entries = (one.entry for one in self.probes)
        return frozenset((*entries, *(one.entry for one in self.followed)))

    @property
    def stepped(self) -> tuple[str, ...]:
        """Functions with a probe on an instruction that the kernel executes out of line, on every
        way."""
        entries = (one.hook.symbol for one in self.probes if not one.placement.emulated)
        return (*entries, *(one.hook.symbol for one in self.followed if one.is_stepped))

    def point_probes(self) -> list[PointProbe]:
        """All points, each once, in the order in which they are to be put on: no call must be seen
        to begin that can't be seen to end."""
        found: dict[tuple[int, int | None, bool], PointProbe] = {}
        for probe in (probe for one in self.followed for probe in one.probes):
            point = probe.point
            key = (probe.offset, point.condition, point.action is Action.BEGIN)
            known = found.get(key)
            if known is None or point.action is Action.BOTH:
                found[key] = probe  # a both point ends what is open, too
            elif known.point.action is Action.END and point.may_be_unopened:
                found[key] = replace(known, point=replace(known.point, may_be_unopened=True))
        order = (Action.END, Action.BOTH, Action.BEGIN)
        return sorted(found.values(), key=lambda probe: order.index(probe.point.action))


def names_to_hook(prefix: str = "") -> Iterator[str]:
    """What an object is searched for."""
    return (prefix + hook.symbol for hook in (*HEAP, *REGIONS, *OPERATORS))


def plan_object(
    elf: ElfObject,
    path: str,
    prefix: str = "",
    *,
    way: Way = Way.POINTS,
    functions: Mapping[str, FunctionSymbol] | None = None,
    budget: TableBudget | None = None,
) -> ObjectPlan | None:
    """The probes of one object; None when it is no allocator. `functions` are those of
    `names_to_hook` that it defines, where they are known already.

    Functions that are one and the same code (aligned_alloc and memalign, mmap and mmap64) get one
    probe. A symbol that is resolved at run time (IFUNC) can't be located in the file and counts as
    missing. Of functions that can't be followed by points, those get return probes that are safe
    with them, and the others none.
    """
    hooks = (*HEAP, *REGIONS, *OPERATORS)
    if functions is None:
        functions = elf.functions(names_to_hook(prefix))
    found = {name: symbol for name, symbol in functions.items() if not symbol.is_ifunc}
    if not all(prefix + name in found for name in REQUIRED):
        return None
    entries: dict[int, tuple[Hook, FunctionSymbol, int]] = {}
    missing: list[str] = []
    for hook in hooks:
        symbol = found.get(prefix + hook.symbol)
        entry = elf.vaddr_to_offset(symbol.vaddr) if symbol else None
        if symbol is None or entry is None:
            if hook not in OPERATORS:
                missing.append(hook.symbol)
        else:
            entries.setdefault(symbol.vaddr, (hook, symbol, entry))
    calls = {vaddr: hook for vaddr, (hook, _, _) in entries.items() if hook.has_return}
    found_points: dict[int, Found] = {}
    if way is Way.POINTS and is_decoded(elf.machine):
        kinds = {vaddr: hook.function for vaddr, (hook, _, _) in entries.items()}
        names = {prefix + hook.symbol: hook.function for hook in hooks}
        try:
            found_points = PointCache(user_cache_directory()).points_of(
                elf,
                kinds,
                lambda: _find_points(elf, kinds, names, calls, _frame_rules(elf, budget)),
                names,
            )
        except NotBuiltError:  # another run may have the time for it: nothing is kept
            found_points = _find_points(elf, kinds, names, calls, None)
    probes: list[Probe] = []
    followed: list[Followed] = []
    left_out: list[LeftOut] = []
    for vaddr, (hook, symbol, entry) in entries.items():
        points = found_points.get(vaddr, "")
        if hook.has_return and not isinstance(points, str):
            followed.append(Followed(hook, vaddr, entry, tuple(_point_probes(elf, points))))
            continue
        reason = points if isinstance(points, str) else ""
        if way is not Way.RETURNS and hook.has_return and not hook.is_c:
            left_out.append(LeftOut(hook, reason or "its calls can't be followed on this machine"))
            continue
        placement = place_in(elf, symbol, hook.argument_count)
        if placement.refused:
            if hook.symbol in REQUIRED:
                return None
            left_out.append(LeftOut(hook, placement.reason))
            continue
        probes.append(Probe(hook, vaddr, placement, entry + placement.offset, reason))
    return ObjectPlan(path, elf, tuple(probes), tuple(followed), tuple(missing), tuple(left_out))


def _find_points(
    elf: ElfObject,
    functions: Mapping[int, Function],
    names: Mapping[str, Function],
    calls: Mapping[int, Hook],
    rules: FrameRules | None,
) -> dict[int, Found]:
    finder = PointFinder(elf, functions, names, rules)
    return {
        vaddr: found_by(partial(finder.find, vaddr, hook.argument_count))
        for vaddr, hook in calls.items()
    }


def _point_probes(elf: ElfObject, points: Iterable[Point]) -> Iterator[PointProbe]:
    for point in points:
        offset = elf.vaddr_to_offset(point.vaddr)
        assert offset is not None  # its instruction was read there
        yield PointProbe(point, offset)


def _frame_rules(elf: ElfObject, budget: TableBudget | None) -> FrameRules | None:
    """The object's unwind information, None where it has none that is understood.

    Raises NotBuiltError where it takes more than `budget` allows.
    """
    try:
        return TableCache(user_cache_directory()).table_for(elf, budget)
    except NotBuiltError:
        raise
    except ObjectFileError:
        return None
