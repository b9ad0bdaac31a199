"""Cached points are those that were found."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
from assembled import SIGNATURES

from leaktrace.abi.process import Function
from leaktrace.elf.object import ElfObject
from leaktrace.process.attach.patched_code import without_return_probes
from leaktrace.process.probes.find_points import PointFinder
from leaktrace.process.probes.object_plan import ObjectPlan, Way, plan_object
from leaktrace.process.probes.point_cache import Found, PointCache, found_by
from leaktrace.unwind.budget import TableBudget

pytestmark = [
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="points are x86-64's"),
]

SOURCE = """
#include <stddef.h>
void *take(size_t size);
void give(void *block);
void *malloc(size_t size) { void *block = take(size); if (block) give(0); return block; }
void free(void *block) { give(block); }
void *valloc(size_t size) { return ((void *(*)(size_t))(size * 8))(size) ? malloc(size) : 0; }
"""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    (tmp_path / "own.c").write_text(SOURCE)
    path = tmp_path / "own.so"
    flags = ["-shared", "-fPIC", "-O2", "-fno-builtin"]
    subprocess.run(["gcc", *flags, "-o", str(path), str(tmp_path / "own.c")], check=True)
    return path


def find(elf: ElfObject) -> dict[int, Found]:
    hooked = {elf.functions(["malloc"])["malloc"].vaddr: SIGNATURES[Function.MALLOC]}
    finder = PointFinder(elf, hooked, {}, None)
    return {vaddr: found_by(partial(finder.find, vaddr)) for vaddr in hooked}


def never() -> dict[int, Found]:
    raise AssertionError("asked again")


def test_what_was_found_is_kept(library: Path, tmp_path: Path) -> None:
    with ElfObject.open(library) as elf:
        found = find(elf)
        asked = dict.fromkeys(found, SIGNATURES[Function.MALLOC])
        assert any(not isinstance(one, str) and len(one) > 1 for one in found.values())
        assert PointCache(tmp_path / "cache").points_of(elf, asked, lambda: found) == found
        assert PointCache(tmp_path / "cache").points_of(elf, asked, never) == found


def test_reasons_are_kept_too(library: Path, tmp_path: Path) -> None:
    with ElfObject.open(library) as elf:
        refused: dict[int, Found] = {4096: "it is too large"}
        asked = {4096: SIGNATURES[Function.MALLOC]}
        assert PointCache(tmp_path).points_of(elf, asked, lambda: refused) == refused
        assert PointCache(tmp_path).points_of(elf, asked, never) == refused


@pytest.mark.parametrize("damage", [b"", b"{", b'{"1": [{}]}', b'{"1": [{"vaddr": 1}]}', b"[]"])
def test_a_damaged_file_is_replaced(library: Path, tmp_path: Path, damage: bytes) -> None:
    home = tmp_path / "cache"
    with ElfObject.open(library) as elf:
        found = find(elf)
        asked = dict.fromkeys(found, SIGNATURES[Function.MALLOC])
        PointCache(home).points_of(elf, asked, lambda: found)
        (kept,) = home.rglob("*.json")
        kept.write_bytes(damage)
        assert PointCache(home).points_of(elf, asked, lambda: found) == found
        assert PointCache(home).points_of(elf, asked, never) == found


def test_another_object_of_the_same_name_has_its_own(library: Path, tmp_path: Path) -> None:
    with ElfObject.open(library) as elf:
        asked = {4096: SIGNATURES[Function.MALLOC]}
        PointCache(tmp_path).points_of(elf, asked, lambda: {4096: "one"})
    with library.open("ab") as file:
        file.write(b"\0")
    with ElfObject.open(library) as elf:
        other: dict[int, Found] = {4096: "other"}
        assert PointCache(tmp_path).points_of(elf, asked, lambda: other) == other


def plan(library: Path, way: Way) -> ObjectPlan:
    with ElfObject.open(library) as elf:
        found = plan_object(elf, str(library), way=way)
    assert found is not None
    return found


def test_without_return_probes_releases_are_left(library: Path) -> None:
    by_returns = plan(library, Way.RETURNS)
    assert {probe.hook.symbol for probe in by_returns.probes} == {"malloc", "free", "valloc"}
    left = without_return_probes(by_returns, "for a reason")
    assert [probe.hook.symbol for probe in left.probes] == ["free"]
    assert {(one.hook.symbol, one.reason) for one in left.left_out} == {
        ("malloc", "for a reason"),
        ("valloc", "for a reason"),
    }


def test_what_was_found_without_time_for_unwind_tables_is_not_kept(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with ElfObject.open(library) as elf:
        assert plan_object(elf, str(library), budget=TableBudget(interrupted=lambda: True))
        assert list(tmp_path.rglob("*.json")) == []
        assert plan_object(elf, str(library), budget=TableBudget())
        assert len(list(tmp_path.rglob("*.json"))) == 1
