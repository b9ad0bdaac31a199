"""What the memory outside of blocks is called: the variables are those that nm(1) lists."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from harness.compiling import Compiler

from leaktrace.analysis.reachability.kept_details import KeptRoots, RootRank
from leaktrace.elf.object import ElfObject
from leaktrace.reach import HolderKind, HolderStep
from leaktrace.roots.module_data import FileTables, ModuleData
from leaktrace.roots.root_map import REGISTERS, RootMap
from leaktrace.roots.stack_frames import StackFrames
from leaktrace.roots.threads_data import ThreadData
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.root import TargetRoot
from leaktrace.targets.thread_registers import Registers

BASE = 0x5555_0000_0000
HEAP, ANONYMOUS, SHARED, STACK = 0x5556_0000_0000, 0x7F00_0000_0000, 0x7F10_0000_0000, 0x7F20 << 32
PAGE = 4096
THREAD = ThreadData(
    tid=4711,
    name="worker",
    stack=(STACK, STACK + 0x8000),
    own_tls=(STACK + 0x9000 - 0x80, STACK + 0x9000),
    other_tls=(STACK + 0x8F00, STACK + 0x9000 - 0x80),
    control_block=(STACK + 0x9000, STACK + 0x9900),
)


def mapping(start: int, path: str, permissions: str = "rw-p") -> Mapping:
    return Mapping(start, start + 16 * PAGE, permissions, 0, "00:00", 0, path)


def registers_of(*tids: int) -> Registers:
    nothing = np.zeros(len(tids), dtype=np.uint64)
    return Registers(
        tids=np.array(tids, dtype=np.uint32),
        is_running=np.ones(len(tids), dtype=bool),
        stack_pointers=nothing,
        instruction_pointers=nothing,
        frame_pointers=nothing,
        thread_pointers=nothing,
        words=np.zeros((len(tids), 15), dtype=np.uint64),
    )


def map_of(module: ModuleData | None) -> RootMap:
    mappings = [
        mapping(HEAP, "[heap]"),
        mapping(ANONYMOUS, ""),
        mapping(SHARED, "/memfd:queue", "rw-s"),
        mapping(STACK, ""),
    ]
    registers = registers_of(4242, 4711)
    modules = [] if module is None else [module]
    frames = StackFrames(modules, registers, lambda: registers, lambda _address, _size: b"")
    return RootMap(
        mappings, (), modules, module, threads=[THREAD], registers=registers, frames=frames
    )


def named(root_map: RootMap, *addresses: int) -> list[tuple[HolderStep, int, RootRank]]:
    """The owner of each, how far into it that is, and the rank."""
    places = np.array(addresses, dtype=np.uint64)
    count = len(places)
    roots = KeptRoots(
        places,
        np.zeros(count, dtype=np.int32),
        root_map.rank_of(places),
        np.ones(count, dtype=bool),
        np.zeros(count, dtype=np.uint64),
    )
    found = root_map.name(roots)
    return [
        (found.owners[number], offset, RootRank(rank))
        for number, offset, rank in zip(
            found.numbers.tolist(), found.offsets.tolist(), found.roots.ranks.tolist(), strict=True
        )
    ]


def variables_in(path: Path) -> dict[str, tuple[int, int]]:
    listed = subprocess.run(
        ["nm", "-S", "--defined-only", path], capture_output=True, text=True, check=True
    ).stdout
    found = re.findall(r"^([0-9a-f]+) ([0-9a-f]+) [bBdD] (\S+)$", listed, re.MULTILINE)
    listed_of = {name: (int(start, 16), int(size, 16)) for start, size, name in found}
    listed_of.pop("thread_local_holder")
    return listed_of


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return Compiler(tmp_path)("holders.c", "-ldl")


def stripped(program: Path) -> Path:
    """Its debug file is next to it."""
    debug, path = program.with_suffix(".debug"), program.with_suffix(".stripped")
    subprocess.run(["objcopy", "--only-keep-debug", program, debug], check=True)
    subprocess.run(
        ["objcopy", "--strip-all", f"--add-gnu-debuglink={debug}", program, path], check=True
    )
    return path


@pytest.mark.parametrize("is_stripped", [False, True])
def test_variables(program: Path, is_stripped: bool) -> None:
    path = stripped(program) if is_stripped else program
    expected = variables_in(program)
    assert {"global_list", "global_array", "static_table"} <= set(expected)
    with ElfObject.open(path) as elf:
        module = ModuleData(elf, str(path), BASE, FileTables(), (TargetRoot("/"),))
        root_map = map_of(module)
        for name, (start, size) in expected.items():
            last = (size - 1) // 8 * 8
            first, other = named(root_map, BASE + start, BASE + start + last)
            assert (first[0].name, first[1], first[2]) == (name, 0, RootRank.VARIABLE)
            assert (other[0], other[1]) == (first[0], last)
            assert (first[0].module, first[0].module_offset) == (str(path), start)
        place = THREAD.own_tls[0]
        ((own, offset, rank),) = named(root_map, place + 0x18)
        assert (own.kind, own.name, own.thread) == (HolderKind.TLS, "thread_local_holder", 4711)
        assert (offset, rank) == (0x18, RootRank.VARIABLE)


def test_data_without_symbols(program: Path) -> None:
    path = stripped(program)
    program.with_suffix(".debug").unlink()
    start, size = variables_in(program)["global_array"]
    with ElfObject.open(path) as elf:
        module = ModuleData(elf, str(path), BASE, FileTables(), (TargetRoot("/"),))
        places = [BASE + start + at for at in range(0, size, 8)]
        array = named(map_of(module), *places)
        # Words that are close together are of one thing.
        assert {owner for owner, _, _ in array} == {
            HolderStep(HolderKind.DATA, name=".bss", module=str(path), module_offset=start)
        }
        assert [offset for _, offset, _ in array] == list(range(0, size, 8))
        (first, _, _), (second, _, _) = named(map_of(module), places[0], places[20])
        assert first != second


def test_memory_behind_data_is_not_all_bss(program: Path) -> None:
    """The kernel joins anonymous mappings that touch, so that a single one begins with .bss."""
    start, size = variables_in(program)["global_array"]
    page = (BASE + start) // PAGE * PAGE
    registers = registers_of()
    with ElfObject.open(program) as elf:
        module = ModuleData(elf, str(program), BASE, FileTables())
        mappings = [
            Mapping(BASE, BASE + PAGE, "r-xp", 0, "00:00", 12, str(program)),
            Mapping(page - PAGE, page, "rw-p", 0, "00:00", 12, str(program)),
            Mapping(page, page + 1024 * PAGE, "rw-p", 0, "00:00", 0, ""),
        ]
        frames = StackFrames([module], registers, lambda: registers, lambda _address, _size: b"")
        root_map = RootMap(
            mappings, (), [module], module, threads=[], registers=registers, frames=frames
        )
        own, other = named(root_map, BASE + start, BASE + start + size + 500 * PAGE)
    assert (own[0].kind, own[0].name) == (HolderKind.VARIABLE, "global_array")
    assert (other[0].kind, other[2]) == (HolderKind.MAPPING, RootRank.OTHER)


def test_other_memory() -> None:
    found = named(
        map_of(None),
        HEAP + 8,
        ANONYMOUS + 16,
        SHARED + 24,
        THREAD.stack[0] + 8,
        THREAD.other_tls[0],
        THREAD.control_block[1] - 8,
        REGISTERS + 14,
        REGISTERS + 15,
        0x1000,
    )
    assert [(owner.kind, owner.name, owner.thread) for owner, _, _ in found] == [
        (HolderKind.UNTRACKED, None, None),
        (HolderKind.MAPPING, f"{ANONYMOUS:#x}", None),
        (HolderKind.SHARED, "/memfd:queue", None),
        (HolderKind.STACK, None, 4711),
        (HolderKind.TLS, None, 4711),
        (HolderKind.TLS, None, 4711),
        (HolderKind.REGISTER, None, 4242),
        (HolderKind.REGISTER, None, 4711),
        (HolderKind.MAPPING, None, None),
    ]
    assert [rank for _, _, rank in found] == [
        RootRank.OTHER,
        RootRank.OTHER,
        RootRank.OTHER,
        RootRank.THREAD,
        RootRank.VARIABLE,
        RootRank.VARIABLE,
        RootRank.THREAD,
        RootRank.THREAD,
        RootRank.OTHER,
    ]
    assert [offset for _, offset, _ in found][1:3] == [16, 24]
    assert found[7][0].thread_name == "worker"


def test_data_of_an_object_that_can_not_be_opened() -> None:
    """It is told from other files, and its .bss from other memory."""

    def part(number: int, permissions: str, path: str) -> Mapping:
        start = BASE + number * 16 * PAGE
        inode = 12 if path else 0
        return Mapping(start, start + 16 * PAGE, permissions, 0, "00:00", inode, path)

    mappings = [
        part(0, "r-xp", "/usr/bin/gone"),
        part(1, "rw-p", "/usr/bin/gone"),
        part(2, "rw-p", ""),
        part(4, "rw-p", ""),
        part(5, "rw-p", "/var/data"),
        part(6, "rw-p", ""),
    ]
    registers = registers_of()
    frames = StackFrames([], registers, lambda: registers, lambda _address, _size: b"")
    root_map = RootMap(mappings, (), [], None, threads=[], registers=registers, frames=frames)
    found = named(root_map, *(one.start + 24 for one in mappings))
    data = HolderStep(HolderKind.DATA, module="/usr/bin/gone")
    assert [owner for owner, _, _ in found[1:3]] == [data, replace(data, name=".bss")]
    assert [(offset, rank) for _, offset, rank in found[1:3]] == 2 * [(24, RootRank.VARIABLE)]
    others = [found[0], *found[3:]]
    assert [owner.kind for owner, _, _ in others] == 4 * [HolderKind.MAPPING]


def test_no_roots() -> None:
    assert named(map_of(None)) == []
