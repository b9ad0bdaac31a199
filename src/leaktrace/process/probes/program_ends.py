"""Probes where programs start and where they exit: a command is stopped there."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

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
        elf = ElfObject.open(path)
        symbols = [FunctionSymbol("_start", elf.entry, 0)]
        if number:
            symbols = list(all_functions(elf.symbol_tables(), "__libc_start_main"))
        found = (_probe(elf, one, Function.START, MOST_ARGUMENTS) for one in symbols)
        probes = tuple(one for one in found if one is not None)
        if probes:
            yield ObjectPlan(path, elf, probes, (), ())
        else:
            elf.close()


class ExitPlanner:
    """Finds where the program of a process exits: the functions that make the system call
    exit_group. exit(3), quick_exit(3) and the return from main end there. A program that is killed,
    or that makes the system call itself, doesn't pass one. Each object is examined once."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seen: set[tuple[str, int]] = set()

    def plan(self, mappings: Sequence[Mapping]) -> list[ObjectPlan]:
        """Plans for objects that were mapped since the last call. They stay open until they are
        attached."""
        plans = []
        program = Path()
        with contextlib.suppress(OSError):  # it has ended, or is of another user
            program = Path(f"/proc/{self._pid}/exe").readlink()
        for mapping in mappings:
            identity = (mapping.device, mapping.inode)
            may_exit = Path(mapping.path) == program or _C_LIBRARY.match(Path(mapping.path).name)
            if not may_exit or not mapping.is_executable or identity in self._seen:
                continue
            self._seen.add(identity)
            try:
                elf = MappedFiles(self._pid).elf(mapping)
            except (TargetError, ObjectFileError):
                continue
            probe = _exit_of(elf)
            if probe is None:
                elf.close()
            else:
                plans.append(ObjectPlan(mapping.path, elf, (probe,), (), (), identity=identity))
        return plans

    def forget(self) -> None:
        """Plan every object again."""
        self._seen.clear()


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
