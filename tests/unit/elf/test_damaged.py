"""Files that are no objects, and damaged ones: refused with a reason, within bounds."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.length import repetitions
from hypothesis import given, settings, strategies
from tool_output import run

from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "text").write_text("#!/bin/sh\n")
    (tmp_path / "empty").touch()
    for path in ("fifo", "text", "empty", "missing", ".", "nul\0byte"):
        with pytest.raises(ObjectFileError):
            ElfObject.open(tmp_path / path)
    with pytest.raises(ObjectFileError):
        ElfObject.open("/dev/null")
    with pytest.raises(ObjectFileError):
        ElfObject.open(1 << 20)


def test_messages_have_no_control_characters(tmp_path: Path) -> None:
    path = tmp_path / "red\x1b[31m\n"
    path.write_bytes(b"\x7fELF")
    with pytest.raises(ObjectFileError) as caught:
        ElfObject.open(path)
    assert caught.value.message.isprintable()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A shared object of a few kilobytes, with everything in it."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs gcc")
    directory = tmp_path_factory.mktemp("small")
    (directory / "s.c").write_text("int f(int n) { return n; } static int g(void) { return f(1); }"
                                   "int h(void) { return g(); }")  # fmt: skip
    output = directory / "s.so"
    run(compiler, "-shared", "-fPIC", "-g", "-gz=zlib", "-nostdlib", "-Wl,--build-id",
        "-Wl,-z,noseparate-code", "-o", output, directory / "s.c")  # fmt: skip
    run("objcopy", f"--add-gnu-debuglink={output}", output, directory / "linked.so")
    return (directory / "linked.so").read_bytes()


def use_everything(data: bytes) -> None:
    """Uses every method of an object. A damaged one may only raise ObjectFileError."""
    try:
        elf = ElfObject.from_bytes(data)
    except ObjectFileError:
        return
    questions: list[Callable[[], object]] = [
        lambda: elf.build_id,
        lambda: elf.debuglink,
        lambda: elf.interpreter,
        lambda: elf.needed,
        lambda: elf.soname,
        elf.eh_frame_header,
        lambda: elf.functions(["f", "g", "h", "missing"]),
        lambda: [elf.symbols().lookup(vaddr) for vaddr in range(0, 0x4000, 97)],
        lambda: elf.vaddr_to_offset(0x1000),
        lambda: elf.offset_to_vaddr(0x1000),
        *(lambda name=section.name: elf.section(name) for section in elf.sections),
    ]
    for question in questions:
        try:
            question()
        except ObjectFileError as error:
            assert error.message.isprintable()


def test_every_truncation_is_survived(small: bytes) -> None:
    use_everything(small)
    for length in {*range(0, 1024, 7), *range(1024, len(small), 211)}:
        use_everything(small[:length])


def test_damaged_files_are_survived(small: bytes) -> None:
    """Bytes changed at random: in the headers, the dynamic section and anywhere."""
    tables = strategies.one_of(
        strategies.integers(0, 0x400),
        strategies.integers(len(small) - 64 * 40, len(small) - 1),
        strategies.integers(0, len(small) - 1),
    )
    values = strategies.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | strategies.integers(0, 255)

    @settings(max_examples=repetitions(120, 600), deadline=None, database=None)
    @given(strategies.lists(strategies.tuples(tables, values), min_size=1, max_size=12))
    def damage(changes: list[tuple[int, int]]) -> None:
        data = bytearray(small)
        for position, value in changes:
            data[position] = value
        use_everything(bytes(data))

    damage()


def test_absurd_counts_are_refused_without_reading(small: bytes) -> None:
    data = bytearray(small)
    struct.pack_into("<H", data, 56, 0xFFFE)  # e_phnum
    with pytest.raises(ObjectFileError, match="program header"):
        ElfObject.from_bytes(bytes(data))
    data = bytearray(small)
    struct.pack_into("<H", data, 60, 0xFFFF)  # e_shnum: sections are given up, segments remain
    elf = ElfObject.from_bytes(bytes(data))
    assert elf.sections == ()
    assert set(elf.functions(["f", "h"])) == {"f", "h"}


def test_a_hash_chain_without_an_end(small: bytes) -> None:
    """Only the end bit of the last hash chain gives the number of dynamic symbols, and it is never
    set."""
    elf = ElfObject.from_bytes(small)
    section = next(s for s in elf.sections if s.name == ".gnu.hash")
    data = bytearray(small)
    data[40:48], data[60:64] = bytes(8), bytes(4)
    buckets, _, bloom, _ = struct.unpack_from("<IIII", data, section.offset)
    chains = section.offset + 16 + 8 * bloom + 4 * buckets
    end = elf.load_segments[0].offset + elf.load_segments[0].file_size
    for at in range(chains, end - 3, 4):
        data[at] &= 0xFE
    with pytest.raises(ObjectFileError):
        ElfObject.from_bytes(bytes(data)).functions(["f"])


@pytest.mark.may_skip("not every file system holds large sparse files")
def test_a_sparse_file_of_a_terabyte(small: bytes, tmp_path: Path) -> None:
    """A section may claim what the file really has, and still be too large to read."""
    elf = ElfObject.from_bytes(small)
    index = next(i for i, s in enumerate(elf.sections) if s.type == "SHT_SYMTAB")
    path = tmp_path / "sparse"
    data = bytearray(small)
    (sections_at,) = struct.unpack_from("<Q", data, 40)
    struct.pack_into("<Q", data, sections_at + index * 64 + 32, 1 << 40)
    path.write_bytes(data)
    try:
        os.truncate(path, 2 << 40)
    except OSError:
        pytest.skip("needs a file system that holds large sparse files")
    with pytest.raises(ObjectFileError, match="too large"):
        ElfObject.open(path).functions(["f"])
