"""Stacks that a real program has recorded of itself: tests/programs/single_steps.c."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from harness.target import Target

from leaktrace.elf.object import ElfObject
from leaktrace.targets.mappings import Mapping, read_mappings
from leaktrace.targets.memory import ProcessMemory
from leaktrace.unwind.ends import with_ends
from leaktrace.unwind.layout import UnwindLayout, Update
from leaktrace.unwind.table import UnwindTable, compile_object
from walker.machine import Memory
from walker.walks import Registers

_VDSO = "[vdso]"


@dataclass(frozen=True)
class Stop:
    """The registers and stacks at one instruction, and the frames that backtrace(3) found there."""

    registers: Registers
    has_returned: bool  # a function, by the instruction before
    ips: tuple[int, ...]
    memory: Memory  # the stacks, and all code


@dataclass(frozen=True)
class Recording:
    """A scenario: its stops and its unwind tables."""

    stops: tuple[Stop, ...]
    mappings: tuple[Mapping, ...]
    layout: UnwindLayout
    update: Update

    def path_of(self, ip: int) -> str:
        """What is mapped at an address, "" where nothing is."""
        return next((m.path for m in self.mappings if m.start <= ip < m.end), "")


class Tables:
    """Compiled tables, each once per file: most programs have the same libraries."""

    def __init__(self) -> None:
        self._by_path: dict[str, UnwindTable] = {}

    def of(self, mapping: Mapping, code: bytes) -> UnwindTable | None:
        """The table of the object behind a mapping; `code` is what is mapped there."""
        if mapping.path == _VDSO:
            with ElfObject.from_bytes(code, _VDSO) as elf:
                return compile_object(elf)
        if not mapping.is_file:
            return None
        if mapping.path not in self._by_path:
            with ElfObject.open(mapping.path) as elf:
                self._by_path[mapping.path] = with_ends(elf, compile_object(elf))
        return self._by_path[mapping.path]


def record(program: Path, output: Path, scenario: str, tables: Tables) -> Recording:
    """Run a scenario, and read the child's mappings and code once it is done."""
    with Target([program, output, *scenario.split()]) as target:
        target.await_ready()
        mappings = read_mappings(target.pid)
        executable = [mapping for mapping in mappings if mapping.is_executable]
        with ProcessMemory(target.pid) as memory:
            code = {
                mapping.start: memory.read(mapping.start, mapping.end - mapping.start)
                for mapping in executable
                if mapping.path != "[vsyscall]"  # above user space, and not to be read
            }
    layout = UnwindLayout(lambda mapping: tables.of(mapping, code[mapping.start]))
    update = layout.update(mappings)
    assert not update.failures
    stops = tuple(_stops(output.read_bytes(), code))
    return Recording(stops, mappings, layout, update)


def _stops(data: bytes, code: dict[int, bytes]) -> list[Stop]:
    stops = []
    at = 0

    def numbers(count: int) -> tuple[int, ...]:
        nonlocal at
        found = struct.unpack_from(f"<{count}Q", data, at)
        at += 8 * count
        return found

    while at < len(data):
        ip, sp, bp, has_returned, frame_count, area_count = numbers(6)
        ips = numbers(frame_count)
        parts = dict(code)
        for _ in range(area_count):
            start, size = numbers(2)
            if size:
                parts[start] = data[at : at + size]
                at += size
        stops.append(Stop(Registers(ip, sp, bp), bool(has_returned), ips, Memory(parts)))
    return stops
