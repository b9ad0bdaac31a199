"""Which objects of a target define the functions that the user named (--pair)."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from leaktrace.elf.object import ElfObject
from leaktrace.elf.symbols import RawSymbols, function_names
from leaktrace.errors import LeaktraceError, NotAnObjectError, ObjectFileError
from leaktrace.options import Pair
from leaktrace.own.shortages import shortage_behind
from leaktrace.printable import printable
from leaktrace.process.probes.object_plan import ObjectPlan, Way
from leaktrace.process.probes.pair_plan import (
    NumberedPair,
    PairFunctions,
    functions_of,
    plan_pairs,
)
from leaktrace.process.probes.planner import is_called
from leaktrace.process.probes.program_files import OUR_MACHINE, objects_of_program
from leaktrace.targets.mapped_files import MappedFiles
from leaktrace.targets.mappings import Mapping, read_mappings
from leaktrace.unwind.budget import TableBudget

_MOST_NAMES = 100_000  # of one object, that a misspelt name is compared with
_LONGER_BY = 3  # letters: names that differ by more are not meant


# An object's path, its device and inode if it is mapped, and how to open it.
_Candidate = tuple[str, tuple[str, int] | None, Callable[[], ElfObject]]


@dataclass
class _Object:
    """An object that was examined, and is open until its probes are planned."""

    path: str
    elf: ElfObject
    tables: list[RawSymbols]
    identity: tuple[str, int] | None


@dataclass
class PairState:
    """What is known of one pair in the program that runs now."""

    numbered: NumberedPair
    objects: dict[str, None] = field(default_factory=dict)  # that define ALLOC, by path
    releases: dict[str, None] = field(default_factory=dict)  # that define FREE
    was_seen: bool = False  # the object that the user chose

    @property
    def pair(self) -> Pair:
        return self.numbered.pair

    @property
    def is_found(self) -> bool:
        """Whether both functions are there, or may come with the object that the user chose."""
        is_awaited = self.pair.object is not None and not self.was_seen
        return is_awaited or bool(self.objects and self.releases)

    def objects_in(self, is_mapped: Callable[[str], bool]) -> tuple[str, ...]:
        """The objects that define ALLOC and are mapped."""
        return tuple(filter(is_mapped, self.objects))


class PairPlanner:
    """Finds the functions of all pairs among the objects of a target. Each object is examined
    once."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        way: Way,
        budget: TableBudget | None,
        is_expected: bool = True,
    ) -> None:
        """`is_expected`: the target should have the functions. A child need not have them."""
        self._is_expected = is_expected
        self._way = way
        self._budget = budget
        self._seen: set[tuple[str, int]] = set()
        self._without: set[tuple[str, int]] = set()  # mapped, and without any of the functions
        self.states = [
            PairState(NumberedPair(number, pair)) for number, pair in enumerate(pairs, start=1)
        ]
        self.problems: list[LeaktraceError] = []  # of objects that come later

    def plan_process(
        self,
        pid: int,
        mappings: tuple[Mapping, ...] | None = None,
        *,
        is_first: bool = False,
        subject: str = "",
    ) -> list[ObjectPlan]:
        """Plans for the objects that the process has mapped and that are new: those with releases
        first, so that no object is recorded whose release can't be seen.

        Raises LeaktraceError if `is_first` and a function can't be found or probed; later, it goes
        to `problems`. `subject`: what the error calls the process.
        """
        files = MappedFiles(pid)

        mapped = read_mappings(pid) if mappings is None else mappings
        candidates = [
            (one.path, (one.device, one.inode), partial(files.elf, one))
            for one in mapped
            if one.is_executable and one.is_file
        ]
        return self._plan(candidates, subject or f"process {pid}", is_first=is_first)

    def plan_command(self, executable: str) -> list[ObjectPlan]:
        """Plans for a program that is about to be executed, from the objects that it will load.

        Raises LeaktraceError, as above.
        """
        candidates = [
            (path, None, partial(ElfObject.open, path)) for path in objects_of_program(executable)
        ]
        return self._plan(candidates, executable, is_first=True)

    def forget(self) -> None:
        """Forget all objects: every one is planned again."""
        self._seen.clear()
        self._without.clear()
        self.states = [PairState(one.numbered) for one in self.states]

    def inherit(self, parent: PairPlanner) -> None:
        """Examine only what is not known from the parent of a forked process, which has mapped the
        same files."""
        self._without |= parent._without
        self._seen |= parent._without

    def notes(self, is_mapped: Callable[[str], bool]) -> Iterator[str]:
        """Notes about pairs whose functions are not there, or not yet. `is_mapped`: whether the
        program that runs now has this file mapped."""
        for one in self.states if self._is_expected else ():
            pair = one.pair
            has_both = one.objects_in(is_mapped) and any(map(is_mapped, one.releases))
            if pair.object is not None and not one.was_seen:
                yield (
                    f"{pair.allocate} and {pair.release} are traced from the moment at which "
                    f"{printable(pair.object)} is loaded"
                )
            elif not has_both:
                absent = pair.release if one.objects_in(is_mapped) else pair.allocate
                yield f"{pair.allocate} is not traced: no object of the program defines {absent}"
        yield from (error.message for error in self.problems)

    # --- objects ---------------------------------------------------------------------------

    def _plan(
        self,
        candidates: Iterable[_Candidate],
        subject: str,
        *,
        is_first: bool,
    ) -> list[ObjectPlan]:
        objects = list(self._open_new(candidates))
        plans: list[ObjectPlan] = []
        try:
            found = [(one, self._functions_in(one)) for one in objects]
            self._without |= {one.identity for one, items in found if one.identity and not items}
            if is_first:
                self._require(objects, subject)
            releases = {state.numbered.space for state in self.states if state.releases}
            # Without a release everything would seem to be outstanding.
            usable = [
                (one, [item for item in items if item.numbered.space in releases])
                for one, items in found
            ]
            usable.sort(key=lambda entry: any(item.allocate for item in entry[1]))
            for one, items in usable:
                if items:
                    plans += self._planned(one, items, is_first=is_first)
        except BaseException:
            for plan in plans:
                plan.elf.close()
            raise
        finally:
            kept = {id(plan.elf) for plan in plans}
            for one in objects:
                if id(one.elf) not in kept:
                    one.elf.close()
        return plans

    def _planned(
        self, one: _Object, items: Sequence[PairFunctions], *, is_first: bool
    ) -> list[ObjectPlan]:
        try:
            plan = plan_pairs(
                one.elf,
                one.path,
                items,
                way=self._way,
                budget=self._budget,
                identity=one.identity,
            )
        except LeaktraceError as error:
            if is_first:
                raise
            self.problems.append(error)
            for item in items:
                self.states[item.numbered.space - 1].objects.pop(one.path, None)
            return []
        return [plan]

    def _open_new(self, candidates: Iterable[_Candidate]) -> Iterator[_Object]:
        for path, identity, open_it in candidates:
            if identity is not None and identity in self._seen:
                continue
            if identity is not None:
                self._seen.add(identity)
            try:
                elf = open_it()
            except ObjectFileError as error:
                self._pass_over(identity, error)
                continue
            descriptor = elf.descriptor
            assert descriptor is not None  # it was opened from a file
            status = os.fstat(descriptor)
            key = (f"file on {status.st_dev}", status.st_ino)
            if key in self._seen or elf.machine != OUR_MACHINE or elf.bits != 64:
                elf.close()
                continue
            self._seen.add(key)
            try:
                tables = elf.symbol_tables()
            except ObjectFileError:
                elf.close()
                continue
            yield _Object(path, elf, list(tables), identity)

    def _pass_over(self, identity: tuple[str, int] | None, error: ObjectFileError) -> None:
        """An object could not be opened."""
        lacks = shortage_behind(error)
        is_gone = isinstance(error.__cause__, FileNotFoundError | ProcessLookupError)
        if identity is not None and (lacks is not None or is_gone):
            # Its mapping may have changed since it was read: an exec. It is tried again.
            self._seen.discard(identity)
        if lacks is not None:
            raise lacks from error
        if not is_gone and not isinstance(error, NotAnObjectError):
            self.problems.append(error)

    def _functions_in(self, one: _Object) -> list[PairFunctions]:
        """What an object defines, which is noted."""
        wanted = []
        for state in self.states:
            chosen = state.pair.object
            if chosen is None or is_called(one.path, chosen):
                state.was_seen = True
                wanted.append(state.numbered)
        found = functions_of(one.tables, wanted)
        for item in found:
            state = self.states[item.numbered.space - 1]
            if item.allocate:
                state.objects[one.path] = None
            if item.release:
                state.releases[one.path] = None
        return found

    # --- what is missing -------------------------------------------------------------------

    def _require(self, objects: Sequence[_Object], subject: str) -> None:
        """Raise ObjectFileError for a function that isn't there, unless it is in an object that may
        be loaded later."""
        for state in self.states:
            pair = state.pair
            if pair.object is not None and not state.was_seen:
                continue
            for name, is_there in ((pair.allocate, state.objects), (pair.release, state.releases)):
                if not is_there:
                    raise _missing(name, pair, objects, subject)


def _missing(name: str, pair: Pair, objects: Sequence[_Object], subject: str) -> ObjectFileError:
    chosen = pair.object
    among = [one for one in objects if chosen is None or is_called(one.path, chosen)]
    where = (
        f"no object of {subject}"
        if chosen is None
        else " and ".join(printable(Path(one.path).name) for one in among)
    )
    defines = "defines" if chosen is None else "does not define"
    near = _near(name, among)
    if near:
        hint = f"did you mean {near}?"
    elif chosen is None:
        hint = (
            "if a library that is loaded later defines it, name the library: "
            f"--pair LIBRARY:{pair.allocate}:{pair.release}"
        )
    else:
        hint = "nm -D FILE lists the functions that an object exports"
    return ObjectFileError(f"--pair: {where} {defines} a function {name}", hint)


def _near(name: str, objects: Sequence[_Object]) -> str:
    """The function that may be meant: the compiler's own version of it (NAME.isra.0), or the one
    whose name is most like it, and where that is. "" if there is none."""
    owners: dict[str, str] = {}
    for one in objects:
        for other in function_names(one.tables, _MOST_NAMES):
            if other.startswith(f"{name}."):
                return f"{printable(other)}, which the compiler made of it with other arguments"
    for one in objects:
        for other in function_names(one.tables, _MOST_NAMES):
            if abs(len(other) - len(name)) <= _LONGER_BY:
                owners.setdefault(other, one.path)
    found = difflib.get_close_matches(name, owners, 1, cutoff=0.75)
    return f"{printable(found[0])} of {printable(Path(owners[found[0]]).name)}" if found else ""
