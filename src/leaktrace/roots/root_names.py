"""Makes the map of the memory outside of blocks (root_map.py) for one look at a process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from leaktrace.roots.module_data import (
    FileTables,
    ModuleData,
    ObjectFiles,
    first_mappings,
    open_modules,
)
from leaktrace.roots.root_map import RootMap
from leaktrace.roots.stack_frames import StackFrames
from leaktrace.roots.threads_data import threads_data
from leaktrace.targets.dead_stacks import ReadMemory
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.page_map import Range
from leaktrace.targets.thread_registers import Registers


@dataclass(frozen=True)
class OpenedRoots:
    """The map, and the objects that it has names from. They are open."""

    map: RootMap
    modules: Sequence[ModuleData]
    missing: tuple[str, ...]  # paths of objects that can't be opened

    def function_at(self, address: int) -> str | None:
        """The function that has an address."""
        for one in self.modules:
            if any(low <= address < high for low, high in one.ranges()):
                return one.function_at(address)
        return None


def open_roots(
    pid: int,
    mappings: Sequence[Mapping],
    heaps: Sequence[Range],
    threads: Registers,
    *,
    files: ObjectFiles,
    tables: FileTables,
    read: ReadMemory,
    registers_now: Callable[[], Registers],
    opened: ExitStack,
) -> OpenedRoots:
    """`mappings` by ascending address; `registers_now`: of a process that goes on, those after a
    stack was read. `opened`: closes the objects. Raises TargetError when the process has ended."""
    modules = open_modules(files, mappings, tables, lambda elf: opened.callback(elf.close))
    program = next((one for one in modules if one.path == files.program_path), None)
    placed = threads_data(
        pid, threads, mappings, modules, program, thread_name=files.thread_name, read=read
    )
    frames = StackFrames(modules, threads, registers_now, read)
    made = RootMap(
        mappings, heaps, modules, program, threads=placed, registers=threads, frames=frames
    )
    known = {one.path for one in modules}
    mapped = dict.fromkeys(one.path for one in first_mappings(mappings))
    return OpenedRoots(made, modules, tuple(path for path in mapped if path not in known))
