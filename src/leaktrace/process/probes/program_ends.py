"""Probes where programs start and where they exit: a command is stopped there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from leaktrace.abi.process import Function
from leaktrace.elf.object import ElfObject
from leaktrace.elf.symbols import FunctionSymbol, all_functions
from leaktrace.errors import ObjectFileError, TargetError
from leaktrace.options import MOST_ARGUMENTS
from leaktrace.process.probes.allocators import Hook
from leaktrace.process.probes.object_plan import ObjectPlan, Probe
from leaktrace.process.probes.placement import place_in
from leaktrace.process.probes.program_files import objects_of_program
from leaktrace.process.probes.shape import Shape
from leaktrace.targets.mapped_files import MappedFiles
from leaktrace.targets.mappings import Mapping

_EXITS = ("_Exit", "_exit")  # _exit(2); musl's _exit calls _Exit

_C_LIBRARY = re.compile(r"libc\.|ld-musl-|libc-\d")


def plan_starts(executable: str) -> Iterator[ObjectPlan]:
    """Probes where programs start: a command is stopped there, and not at its first call, until its
    unwind tables are known. In the program; and in its C library, for programs that it executes
    later. None where that can't be probed."""
    for number, path in enumerate(objects_of_program(executable)):
        if number and not _C_LIBRARY.match(Path(path).name):
            continue
        try:
            elf = ElfObject.open(path)
        except ObjectFileError:  # said elsewhere
            continue
        found = [_entry_of(elf)]
        if number:
            symbols = all_functions(elf.symbol_tables(), "__libc_start_main")
            found = [_probe(elf, one, Function.START, MOST_ARGUMENTS) for one in symbols]
        probes = tuple(one for one in found if one is not None)
        if probes:
            yield ObjectPlan(path, elf, probes, (), ())
        else:
            elf.close()


class _Program(NamedTuple):
    """The program of a process: its path, and its device and inode, which may differ from those of
    its mapping in an overlay and on btrfs."""

    path: str = ""
    identity: tuple[str, int] | None = None


def _program_of(pid: int) -> _Program:
    link = Path(f"/proc/{pid}/exe")
    try:
        status = link.stat()
        device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
        return _Program(str(link.readlink()), (device, status.st_ino))
    except OSError:  # it has ended, or is of another user
        return _Program()


class StopPlanner:
    """Finds where a command is to be stopped: where its program starts, and where it exits.

    exit(3), quick_exit(3) and the return from main end in a function that makes the system call
    exit_group. A program that is killed, or that makes the system call itself, doesn't pass it.
    Each object is examined once.
    """

    def __init__(self, pid: int, *, at_exit: bool) -> None:
        self._pid = pid
        self.at_exit = at_exit
        self._seen: set[tuple[str, int]] = set()

    def plan(self, mappings: Sequence[Mapping]) -> list[ObjectPlan]:
        """Plans for objects that were mapped since the last call. They stay open until they are
        attached."""
        plans = []
        program = _program_of(self._pid)
        for mapping in mappings:
            identity = (mapping.device, mapping.inode)
            is_program = mapping.path == program.path or identity == program.identity
            may_exit = is_program or _C_LIBRARY.match(Path(mapping.path).name)
            if not may_exit or not mapping.is_executable or identity in self._seen:
                continue
            self._seen.add(identity)
            try:
                elf = MappedFiles(self._pid).elf(mapping)
            except (TargetError, ObjectFileError):
                continue
            found = [
                _entry_of(elf) if is_program else None,
                _exit_of(elf) if self.at_exit else None,
            ]
            probes = tuple(one for one in found if one is not None)
            if probes:
                plans.append(ObjectPlan(mapping.path, elf, probes, (), (), identity=identity))
            else:
                elf.close()
        return plans

    def forget(self) -> None:
        """Plan every object again."""
        self._seen.clear()


def _entry_of(elf: ElfObject) -> Probe | None:
    return _probe(elf, FunctionSymbol("_start", elf.entry, 0), Function.START, MOST_ARGUMENTS)


def _exit_of(elf: ElfObject) -> Probe | None:
    try:
        for name in _EXITS:
            for symbol in all_functions(elf.symbol_tables(), name):
                return _probe(elf, symbol, Function.EXIT, 1)
    except ObjectFileError:
        pass
    return None


def _probe(
    elf: ElfObject, symbol: FunctionSymbol, function: Function, argument_count: int
) -> Probe | None:
    """A probe at the entry of a function; None where it can't be probed."""
    offset, placement = elf.vaddr_to_offset(symbol.vaddr), place_in(elf, symbol, argument_count)
    if offset is None or placement.refused:
        return None
    hook = Hook(symbol.name, function, Shape(), has_return=False)
    return Probe(hook, symbol.vaddr, placement, offset + placement.offset)
