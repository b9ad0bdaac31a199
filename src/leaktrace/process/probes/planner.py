"""Which objects of a target get probes: the allocators among the files that it maps."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from leaktrace.elf.object import ElfObject
from leaktrace.errors import NotAnObjectError, ObjectFileError
from leaktrace.options import ObjectChoice
from leaktrace.own.shortages import shortage_behind
from leaktrace.printable import printable
from leaktrace.process.probes.families import MARKS
from leaktrace.process.probes.find_allocators import find_allocators
from leaktrace.process.probes.object_plan import ObjectPlan, Way, plan_object
from leaktrace.process.probes.passed_over import PassedOver
from leaktrace.process.probes.program_files import (
    OUR_MACHINE,
    WrongMachineError,
    objects_of_program,
)
from leaktrace.process.probes.survey import Survey, Surveyed, survey_object
from leaktrace.targets.mapped_files import MappedFiles, UnreachableFileError
from leaktrace.targets.mappings import Mapping, read_mappings
from leaktrace.targets.root import TargetRoot
from leaktrace.unwind.budget import TableBudget


class ChosenNotMappedError(ObjectFileError):
    """The object that the user chose is not mapped; it may be loaded later."""


@dataclass(frozen=True)
class Examined:
    """What was found out about a file. The object of the plan is that of another process."""

    plan: ObjectPlan | None  # None: it has no allocator
    surveyed: Surveyed


ExaminedFiles = dict[tuple[tuple[int, ...], str], Examined]  # by stamp, and prefix of functions


class Planner:
    """Finds the allocators among the objects of a target. Each object is examined once."""

    def __init__(
        self,
        choice: ObjectChoice,
        *,
        way: Way = Way.POINTS,
        budget: TableBudget | None = None,
        examined: ExaminedFiles | None = None,
    ) -> None:
        """`budget`: of the run, for unwind tables, which the points of an object may need.
        `examined`: what is known of files from other processes of the run."""
        self._choice = choice
        self._way = way
        self._budget = budget
        self._examined = {} if examined is None else examined
        self._seen: set[tuple[str, int]] = set()
        # A user who chooses an object or a prefix knows that nothing else is traced.
        is_chosen = choice.path is not None or choice.symbols_prefix != ""
        self.survey = None if is_chosen else Survey()
        self.passed_over: list[PassedOver] = []  # since it was last emptied by the caller

    def plan_process(
        self, pid: int, mappings: tuple[Mapping, ...] | None = None
    ) -> list[ObjectPlan]:
        """Plans for the objects that the process has mapped and that are new. `mappings`: if the
        caller has just read them.

        Raises TargetError when the process has ended or can't be traced, ObjectFileError when the
        object that the user chose is no allocator. Objects that could not be examined are added to
        `passed_over`.
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
        """Plans for a program that is about to be executed, from the objects that it will load.

        Raises TargetError when it can't be executed, ObjectFileError as above.
        """
        if self._choice.path is not None and "/" in self._choice.path:
            return self._plan_file(self._choice.path)
        plans = []
        for path in objects_of_program(executable):
            if self._choice.path is not None and not is_called(path, self._choice.path):
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
        """Forget all objects: every one is planned again."""
        self._seen.clear()
        if self.survey is not None:
            self.survey.forget()
        self.passed_over.clear()

    def _is_new(self, elf: ElfObject) -> bool:
        """Whether exactly this file was not planned before, under any path."""
        descriptor = elf.descriptor
        assert descriptor is not None  # it was opened from a file
        status = os.fstat(descriptor)
        key = (f"file on {status.st_dev}", status.st_ino)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    def _open_new(self, mapping: Mapping, files: MappedFiles) -> ElfObject | None:
        key = (mapping.device, mapping.inode)
        if key in self._seen:
            return None
        self._seen.add(key)
        try:
            elf = files.elf(mapping)
        except ObjectFileError as error:
            lacks = shortage_behind(error)
            if lacks is not None:  # so it isn't known what the file is
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
            return  # it has no allocator to hook
        if isinstance(error.__cause__, FileNotFoundError | ProcessLookupError):
            return  # it was unmapped meanwhile
        self.passed_over.append(PassedOver(path, error))

    def _keep_if_allocator(self, elf: ElfObject, path: str, prefix: str) -> list[ObjectPlan]:
        key = (elf.file_stamp, prefix)
        examined = self._examined.get(key)
        try:
            if examined is None:
                examined = self._examine(elf, path, prefix)
                if not (self._budget is not None and self._budget.was_exceeded):
                    self._examined[key] = examined
        except ObjectFileError as error:  # a damaged symbol table: nothing can be hooked
            self._pass_over(path, error)
        if examined is not None and self.survey is not None:
            self.survey.add(path, examined.surveyed)
        if examined is None or examined.plan is None:
            elf.close()
            return []
        return [replace(examined.plan, path=path, elf=elf)]

    def _examine(self, elf: ElfObject, path: str, prefix: str) -> Examined:
        """Raises ObjectFileError."""
        tables = elf.symbol_tables()
        allocators, functions = find_allocators(tables, prefix, MARKS)
        plan = plan_object(elf, path, way=self._way, allocators=allocators, budget=self._budget)
        hooked = frozenset() if plan is None else plan.hooked
        return Examined(plan, survey_object(elf, tables, functions, hooked))

    def _plan_chosen(
        self, choice: str, mappings: Sequence[Mapping], files: MappedFiles, pid: int
    ) -> list[ObjectPlan]:
        for mapping in mappings:
            if is_called(mapping.path, choice):
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
        """A file that isn't mapped yet: in the root of the process, else in that of leaktrace."""
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
        """The plan of the file that the user chose; `path` is its name in messages."""
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


def _executable_files(mappings: tuple[Mapping, ...]) -> list[Mapping]:
    return [m for m in mappings if m.is_executable and m.is_file]


def is_called(path: str, choice: str) -> bool:
    """Whether a mapped object is the one that the user chose: by its path, its file name, the name
    by which programs know a library (libz.so.1 for libz.so.1.2.13), or its short name (c for
    libc.so.6)."""
    if "/" in choice:
        return path in (choice, os.path.realpath(choice))
    name = Path(path).name
    if name == choice or (".so" in choice and name.startswith(f"{choice}.")):
        return True
    return bool(re.match(rf"lib{re.escape(choice)}[-.0-9]*\.so", name))
