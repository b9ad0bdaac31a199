"""The code of releasing functions: as objdump shows it, and the same from the cache."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from leaktrace.elf.object import ElfObject
from leaktrace.process.probes import release_code as tested
from leaktrace.process.probes.release_code import ReleaseCode, release_code

pytestmark = [
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="instructions are x86-64's"),
]

SOURCE = """
void give(void *block);
void note(void);
void free(void *block) { note(); give(block); note(); }
void cfree(void *block) { give(block); give(block); note(); }
void other(void *block) { give(block); note(); give(block); }
"""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    (tmp_path / "own.c").write_text(SOURCE)
    path = tmp_path / "own.so"
    flags = ["-shared", "-fPIC", "-O2", "-fno-builtin"]
    subprocess.run(["gcc", *flags, "-o", str(path), str(tmp_path / "own.c")], check=True)
    return path


def entries(elf: ElfObject, *names: str) -> list[int]:
    return [symbol.vaddr for symbol in elf.functions(names).values()]


def returns_of(library: Path, function: str) -> set[int]:
    """The addresses behind the calls of a function, by objdump."""
    command = ["objdump", "-d", "--no-show-raw-insn", f"--disassemble={function}", str(library)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^ +([0-9a-f]+):\s+(\S+)", listing, re.MULTILINE)
    pairs = itertools.pairwise(found)
    return {int(after, 16) for (_, one), (after, _) in pairs if one == "call"}


def never(*_: object) -> ReleaseCode:
    raise AssertionError("analysed again")


def test_calls_are_those_of_objdump(
    library: Path,
    tmp_path: Path,
    require_tool: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require_tool("objdump")
    expected = returns_of(library, "free") | returns_of(library, "cfree")
    assert len(expected) >= 4  # the last ones are jumps
    with ElfObject.open(library) as elf:
        asked = entries(elf, "free", "cfree")
        found = release_code(elf, asked, tmp_path)
        assert found.returns == expected
        assert {start for start, _ in found.ranges} == set(asked)
        assert all(found.holds(one) for one in expected)
        assert not any(found.holds(one) for one in returns_of(library, "other"))
        monkeypatch.setattr(tested, "_find", never)
        assert release_code(elf, asked, tmp_path) == found
        with pytest.raises(AssertionError, match="again"):
            release_code(elf, asked[:1], tmp_path)


@pytest.mark.parametrize("damage", [b"", b"[", b"[]", b'[[], ["x"]]', b"[[[1]], []]", b"{}"])
def test_a_damaged_file_is_replaced(library: Path, tmp_path: Path, damage: bytes) -> None:
    with ElfObject.open(library) as elf:
        asked = entries(elf, "free")
        found = release_code(elf, asked, tmp_path)
        (kept,) = tmp_path.rglob("releases/*.json")
        kept.write_bytes(damage)
        assert release_code(elf, asked, tmp_path) == found
        assert kept.read_bytes() != damage


def test_no_function_has_no_code(library: Path, tmp_path: Path) -> None:
    with ElfObject.open(library) as elf:
        assert release_code(elf, [], tmp_path) == ReleaseCode()
