"""Core files: one that is made by hand here, and damaged ones."""

from __future__ import annotations

import random
import struct
from contextlib import closing
from pathlib import Path

import pytest

from leaktrace.errors import ObjectFileError
from leaktrace.heap.core_file import CoreFile
from leaktrace.heap.walk import walk_heap
from leaktrace.targets.ended_stacks import ended_stacks

FILE_AT, DATA_AT, LEFT_OUT_AT = 0x400000, 0x500000, 0x600000
PAGE = 4096
CONTENT = (b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0".ljust(256, b"i") * 16)[:PAGE]
REGISTERS = list(range(100, 127))
RBP, RIP, RSP, FS_BASE = 4, 16, 19, 21


def note(kind: int, data: bytes) -> bytes:
    padding = bytes(-len(data) % 4)
    return struct.pack("<III", 5, len(data), kind) + b"CORE\0\0\0\0" + data + padding


def status(tid: int) -> bytes:
    return note(1, struct.pack("<32xi76x27Q", tid, *REGISTERS))


def mapped_files(path: bytes) -> bytes:
    entries = [(FILE_AT, FILE_AT + PAGE, 0), (LEFT_OUT_AT, LEFT_OUT_AT + PAGE, 1)]
    words = [len(entries), PAGE, *(word for entry in entries for word in entry)]
    return note(0x46494C45, struct.pack(f"<{len(words)}Q", *words) + 2 * (path + b"\0"))


def core_file(folder: Path, content: bytes = CONTENT, second_tid: int = 4243) -> Path:
    mapped = folder / "mapped"
    mapped.write_bytes(content + b"of the file".ljust(PAGE, b"\0"))
    info = note(3, struct.pack("<24xi12x16s80x", 4242, b"server"))
    vector = note(0x202, struct.pack("<3Q", 7, 8, 9))
    notes = info + mapped_files(bytes(mapped)) + status(4242) + vector
    notes += status(second_tid) + vector
    notes += note(6, struct.pack("<6Q", 3, 0x400040, 9, FILE_AT + 8, 0, 0))  # AT_PHDR, AT_ENTRY
    headers = [
        (4, 4, 0, len(notes), 0),
        (1, 4, FILE_AT, PAGE, PAGE),
        (1, 6, DATA_AT, PAGE, 2 * PAGE),
    ]
    at = 64 + 56 * len(headers)
    table, contents = b"", b""
    for (kind, flags, address, size, memory), data in zip(
        headers, (notes, content, content[::-1]), strict=True
    ):
        table += struct.pack("<IIQQQQQQ", kind, flags, at, address, 0, size, memory, 1)
        padded = data + bytes(-len(data) % 8)
        contents += padded
        at += len(padded)
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<16sHHIQQQIHHHHHH", identity, 4, 62, 1, 0, 64, 0, 0, 64, 56, 3, 0, 0, 0)
    path = folder / "core"
    path.write_bytes(header + table + contents)
    return path


def test_a_thread_with_an_impossible_number(tmp_path: Path) -> None:
    """The number is looked for in the control block of the thread, which is there."""
    control = struct.pack("<3Q", DATA_AT, 0, DATA_AT).ljust(PAGE, b"\0")
    file = core_file(tmp_path, control[::-1], second_tid=-5)
    data = file.read_bytes().replace(
        struct.pack("<Q", REGISTERS[FS_BASE]), struct.pack("<Q", DATA_AT)
    )
    file.write_bytes(data)
    with closing(CoreFile(file)) as core:
        memory = core.memory()
        assert [one.own_tid for one in memory.threads] == [4242, 0]
        assert memory.threads[1].thread_pointer == DATA_AT
        assert len(ended_stacks(memory.threads, memory.mappings, memory.read)) == 0


def test_what_is_in_it(tmp_path: Path) -> None:
    with closing(CoreFile(core_file(tmp_path))) as core:
        memory = core.memory()
        assert (memory.pid, memory.command) == (4242, "server")
        assert memory.image.read(FILE_AT, PAGE) == CONTENT
        assert memory.image.read(DATA_AT, 2 * PAGE) == CONTENT[::-1]
        assert [(one.start, one.permissions[:2], bool(one.path)) for one in memory.mappings] == [
            (FILE_AT, "r-", True),
            (DATA_AT, "rw", False),
            (LEFT_OUT_AT, "r-", True),
        ]
        assert [
            (one.stack_pointer, one.thread_pointer, one.is_first) for one in memory.threads
        ] == [
            (REGISTERS[RSP], REGISTERS[FS_BASE], True),
            (REGISTERS[RSP], REGISTERS[FS_BASE], False),
        ]
        assert memory.registers.words.tolist() == [[*REGISTERS, 7, 8, 9], [*REGISTERS, 7, 8, 9]]
        assert memory.registers.instruction_pointers.tolist() == 2 * [REGISTERS[RIP]]
        assert memory.registers.frame_pointers.tolist() == 2 * [REGISTERS[RBP]]
        assert (memory.unread_bytes, memory.residence, memory.pause_s) == (0, None, None)


def test_the_objects_are_those_that_were_mapped(tmp_path: Path) -> None:
    path = core_file(tmp_path)
    program = tmp_path / "mapped"
    with closing(CoreFile(path)) as core:
        memory = core.memory()
        objects = memory.objects()
        assert (objects.program_path, objects.thread_name(4242)) == (str(program), None)
        with pytest.raises(ObjectFileError, match="ELF"):
            objects.elf(memory.mappings[0])  # it is the same, and no object
    program.write_bytes(Path("/proc/self/exe").read_bytes())
    with closing(CoreFile(path)) as core:
        memory = core.memory()
        with pytest.raises(ObjectFileError, match="another file"):
            memory.objects().elf(memory.mappings[0])


def test_what_was_left_out_is_read_from_the_same_file_only(tmp_path: Path) -> None:
    path = core_file(tmp_path)
    with closing(CoreFile(path)) as core:
        memory = core.memory()
        assert memory.read(LEFT_OUT_AT, 11) == b"of the file"
        assert memory.read(LEFT_OUT_AT + PAGE, 8) == b""
        assert memory.read(DATA_AT + PAGE, 8) == b""
    (tmp_path / "mapped").write_bytes(b"\1" + CONTENT[1:] + bytes(PAGE))
    with closing(CoreFile(path)) as core:
        assert core.memory().read(LEFT_OUT_AT, 11) == b""
    without = core_file(tmp_path, CONTENT.replace(b"GNU", b"new"))
    with closing(CoreFile(without)) as core:
        assert core.memory().read(LEFT_OUT_AT, 11) == b""  # it has no build ID
    path = core_file(tmp_path)
    (tmp_path / "mapped").unlink()
    with closing(CoreFile(path)) as core:
        assert core.memory().read(LEFT_OUT_AT, 11) == b""


def test_one_that_was_cut_off_says_how_much_is_missing(tmp_path: Path) -> None:
    path = core_file(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    with closing(CoreFile(path)) as core:
        memory = core.memory()
        assert memory.unread_bytes == 1000
        assert memory.image.read(DATA_AT, PAGE) == CONTENT[::-1][:-1000]


@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_are_refused_or_read(tmp_path: Path, seed: int) -> None:
    """And none stays open."""
    path = core_file(tmp_path)
    is_open = {one.name for one in Path("/proc/self/fd").iterdir()}
    whole, chance = path.read_bytes(), random.Random(seed)
    of_headers = whole.index(b"server") + 2000  # headers and notes
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(of_headers)
            size = chance.choice((1, 2, 4, 8))
            data[at : at + size] = chance.choice(
                (bytes(size), b"\xff" * size, chance.randbytes(size))
            )
        path.write_bytes(data[: chance.choice((len(data), chance.randrange(len(data))))])
        try:
            core = CoreFile(path)
        except ObjectFileError as error:
            assert error.hint
            continue
        with closing(core):
            memory = core.memory()
            memory.dead_stacks()
            memory.read(LEFT_OUT_AT, 8)
            assert walk_heap(memory.image, memory.mappings) is None
        del core, memory
    assert {one.name for one in Path("/proc/self/fd").iterdir()} <= is_open


def test_holes_of_the_file_are_no_memory(tmp_path: Path) -> None:
    """What was never touched, in a core file of the kernel's."""
    path = core_file(tmp_path)
    size = path.stat().st_size
    at = -(-size // PAGE) * PAGE
    with path.open("r+b") as file:
        file.truncate(at + (1 << 40) + PAGE)
        file.seek(at + (1 << 40))
        file.write(CONTENT)
        file.seek(64 + 56 * 2)
        file.write(struct.pack("<IIQQQQQQ", 1, 6, at, DATA_AT, 0, (1 << 40) + PAGE, 1 << 41, 1))
    with closing(CoreFile(path)) as core:
        memory = core.memory()
        assert memory.image.size_bytes <= 4 * PAGE
        assert memory.image.read(DATA_AT + (1 << 40), PAGE) == CONTENT
        assert memory.unread_bytes == 0


def test_the_stack_of_the_first_thread_is_known(tmp_path: Path) -> None:
    path = core_file(tmp_path)
    data = path.read_bytes()
    at = data.index(struct.pack("<Q", REGISTERS[RSP]))
    path.write_bytes(data[:at] + struct.pack("<Q", DATA_AT + 8) + data[at + 8 :])
    with closing(CoreFile(path)) as core:
        assert [one.path for one in core.memory().mappings if one.start == DATA_AT] == ["[stack]"]
