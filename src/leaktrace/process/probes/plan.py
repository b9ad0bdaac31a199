"""Which functions of which objects get a probe, decided from the files the target has mapped."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property, partial
from pathlib import Path

from leaktrace.abi.process import Action, Function
from leaktrace.bpf import support
from leaktrace.cache.directory import user_cache_directory
from leaktrace.elf.object import ElfObject, FunctionSymbol
from leaktrace.elf.symbols import find_functions
from leaktrace.errors import NotAnObjectError, ObjectFileError
from leaktrace.options import ObjectChoice
from leaktrace.own.shortages import shortage_behind
from leaktrace.printable import printable
from leaktrace.process.probes.allocators import HEAP, OPERATORS, REGIONS, REQUIRED, Hook
from leaktrace.process.probes.families import MARKS
from leaktrace.process.probes.passed_over import PassedOver
from leaktrace.process.probes.placement import Placement, place_in
from leaktrace.process.probes.point import Point
from leaktrace.process.probes.point_cache import Found, PointCache, found_by
from leaktrace.process.probes.points import FrameRules, PointFinder
from leaktrace.process.probes.program_files import (
    OUR_MACHINE,
    WrongMachineError,
    objects_of_program,
)
from leaktrace.process.probes.survey import Survey
from leaktrace.targets.mapped_files import MappedFiles, UnreachableFileError
from leaktrace.targets.mappings import Mapping as MemoryMapping
from leaktrace.targets.mappings import read_mappings
from leaktrace.targets.root import TargetRoot
from leaktrace.unwind.budget import NotBuiltError, TableBudget
from leaktrace.unwind.cache import TableCache


class Way(Enum):
    """How calls are followed."""

    POINTS = "points"  # where they can be found; else as below
    SAFE_RETURNS = "safe returns"  # return probes on functions that nothing unwinds through
    RETURNS = "returns"  # return probes on all of them: for comparison


def best_way() -> Way:
    """What this machine can: points take cookies, and an instruction set that is understood."""
    can = support.has_attach_cookie() and os.uname().machine == "x86_64"
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
    if way is Way.POINTS and elf.machine == "EM_X86_64":
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


class ChosenNotMappedError(ObjectFileError):
    """The object that the user chose is not mapped; it may be loaded later."""


class Planner:
    """Finds the allocators among the objects of a target, each object looked at once."""

    def __init__(
        self,
        choice: ObjectChoice,
        *,
        way: Way = Way.POINTS,
        budget: TableBudget | None = None,
    ) -> None:
        """`budget` is the run's for unwind tables, which the points of an object may need."""
        self._choice = choice
        self._way = way
        self._budget = budget
        self._seen: set[tuple[str, int]] = set()
        # Who chooses an object or its functions' names knows that nothing else is traced.
        is_chosen = choice.path is not None or choice.symbols_prefix != ""
        self.survey = None if is_chosen else Survey()
        self.passed_over: list[PassedOver] = []  # since the last time that it was emptied

    def plan_process(
        self, pid: int, mappings: tuple[MemoryMapping, ...] | None = None
    ) -> list[ObjectPlan]:
        """Plans for what the process has mapped (`mappings`, if they were just read) and was not
        seen before.

        Raises TargetError when the process is gone or of a kind that can't be traced,
        ObjectFileError when the object that the user chose is no allocator. What was left out
        although it may be one is found in `passed_over`.
        """
        mapped = _executable_files(read_mappings(pid) if mappings is None else mappings)
        files = MappedFiles(pid)
        if self._choice.path is not None:
            return self._plan_chosen(self._choice.path, mapped, files, pid)
        plans = []
        for mapping in mapped:
            elf = self._open_new(mapping, files)
            if elf is not None:
                kept = self._keep_if_allocator(elf, mapping.path, self._choice.symbols_prefix)
                identity = (mapping.device, mapping.inode)
                plans += [replace(plan, identity=identity) for plan in kept]
        return plans

    def plan_command(self, executable: str) -> list[ObjectPlan]:
        """Plans for a program that is about to be executed, from the objects it will load.

        Raises TargetError when it can't be executed, ObjectFileError as above.
        """
        if self._choice.path is not None and "/" in self._choice.path:
            return self._plan_file(self._choice.path)
        plans = []
        for path in objects_of_program(executable):
            if self._choice.path is not None and not _is_called(path, self._choice.path):
                continue
            try:
                elf = ElfObject.open(path)
            except ObjectFileError as error:
                if path == executable:
                    raise
                self._pass_over(path, error)
                continue
            if self._is_new(elf):
                plans += self._keep_if_allocator(elf, path, self._choice.symbols_prefix)
            else:
                elf.close()
        return plans

    def forget(self) -> None:
        """Plan every object again."""
        self._seen.clear()
        if self.survey is not None:
            self.survey.forget()
        self.passed_over.clear()

    def _is_new(self, elf: ElfObject) -> bool:
        """Whether this very file was not planned before, under whatever path."""
        descriptor = elf.descriptor
        assert descriptor is not None  # it was opened from a file
        status = os.fstat(descriptor)
        key = (f"file on {status.st_dev}", status.st_ino)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    def _open_new(self, mapping: MemoryMapping, files: MappedFiles) -> ElfObject | None:
        key = (mapping.device, mapping.inode)
        if key in self._seen:
            return None
        self._seen.add(key)
        try:
            elf = files.elf(mapping)
        except ObjectFileError as error:
            lacks = shortage_behind(error)
            if lacks is not None:  # it is not known what the file is
                self._seen.discard(key)
                raise lacks from error
            self._pass_over(mapping.path, error)
            return None
        if not self._is_new(elf):
            elf.close()
            return None
        if elf.machine != OUR_MACHINE or elf.bits != 64:
            self._pass_over(mapping.path, WrongMachineError(mapping.path, elf))
            elf.close()
            return None
        return elf

    def _pass_over(self, path: str, error: ObjectFileError) -> None:
        if isinstance(error, NotAnObjectError):
            return  # a mapped file that is no ELF object has no allocator to hook
        if isinstance(error.__cause__, FileNotFoundError | ProcessLookupError):
            return  # it was unmapped meanwhile
        self.passed_over.append(PassedOver(path, error))

    def _keep_if_allocator(self, elf: ElfObject, path: str, prefix: str) -> list[ObjectPlan]:
        plan = None
        try:
            tables = elf.symbol_tables()
            functions = find_functions(tables, (*names_to_hook(prefix), *MARKS))
            plan = plan_object(
                elf, path, prefix, way=self._way, functions=functions, budget=self._budget
            )
            if self.survey is not None:
                hooked = frozenset() if plan is None else plan.hooked
                self.survey.look(elf, path, tables, functions, hooked)
        except ObjectFileError as error:  # a damaged symbol table: nothing of it can be hooked
            self._pass_over(path, error)
        if plan is None:
            elf.close()
            return []
        return [plan]

    def _plan_chosen(
        self, choice: str, mappings: Sequence[MemoryMapping], files: MappedFiles, pid: int
    ) -> list[ObjectPlan]:
        for mapping in mappings:
            if _is_called(mapping.path, choice):
                if (mapping.device, mapping.inode) in self._seen:
                    return []
                self._seen.add((mapping.device, mapping.inode))
                return [self._require(partial(files.elf, mapping), mapping.path)]
        if "/" in choice:
            return self._plan_file(choice, pid)
        raise ChosenNotMappedError(
            f"process {pid} has no object called {choice} mapped",
            f"see /proc/{pid}/maps for its objects, or give a path",
        )

    def _plan_file(self, path: str, pid: int | None = None) -> list[ObjectPlan]:
        """A file that isn't mapped yet: in the root of the process if it is there, else in ours."""
        if path in {key for key, _ in self._seen}:
            return []
        self._seen.add((path, 0))
        if pid is None or not path.startswith("/"):
            shown = os.path.realpath(path)
            return [self._require(partial(ElfObject.open, shown), shown)]
        try:
            descriptor = TargetRoot(f"/proc/{pid}/root").open(path)
        except FileNotFoundError:
            return [self._require(partial(ElfObject.open, path), path)]
        except OSError as error:
            raise ObjectFileError(
                f"{printable(path)} can't be opened: {error.strerror}",
                "choose a program or a shared library with --obj",
            ) from error
        try:
            return [self._require(partial(ElfObject.open, descriptor, path), path)]
        finally:
            os.close(descriptor)

    def _require(self, open_it: Callable[[], ElfObject], path: str) -> ObjectPlan:
        """The plan of a file that the user chose, which `path` is the name of."""
        prefix = self._choice.symbols_prefix
        try:
            elf = open_it()
            plan = plan_object(elf, path, prefix, way=self._way, budget=self._budget)
        except ObjectFileError as error:
            if isinstance(error, UnreachableFileError) and error.capability is not None:
                raise error.as_access_error() from error
            raise ObjectFileError(
                error.message, "choose a program or a shared library with --obj"
            ) from error
        if plan is None:
            elf.close()
            raise ObjectFileError(
                f"{path} does not define {prefix}malloc and {prefix}free",
                "choose the object that defines them, or check --symbols-prefix",
            )
        return plan


def _executable_files(mappings: tuple[MemoryMapping, ...]) -> list[MemoryMapping]:
    return [m for m in mappings if m.is_executable and m.is_file]


def _is_called(path: str, choice: str) -> bool:
    """Whether a mapped object is the one that the user means: its path, its file name, or a
    library's short name (c for libc.so.6)."""
    if "/" in choice:
        return path in (choice, os.path.realpath(choice))
    name = Path(path).name
    return name == choice or bool(re.match(rf"lib{re.escape(choice)}[-.0-9]*\.so", name))
