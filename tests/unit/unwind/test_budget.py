"""The budget of tables: bytes and time of all objects together, the largest last."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import large_tables
import numpy as np
import pytest

from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.targets.mappings import Mapping, read_mappings
from leaktrace.unwind import budget, table
from leaktrace.unwind import process_tables as process
from leaktrace.unwind.budget import NotBuiltError, OverBudgetError, TableBudget
from leaktrace.unwind.cache import TableCache
from leaktrace.unwind.layout import UnwindLayout
from leaktrace.unwind.process_tables import ProcessTables, weight_of
from leaktrace.unwind.table import compile_object

PIECE_BYTES = 1 << 20


@pytest.fixture(scope="module")
def make(
    tmp_path_factory: pytest.TempPathFactory, require_tool: Callable[[str], str]
) -> Callable[[str, int], Path]:
    folder, compiler = tmp_path_factory.mktemp("large"), require_tool("gcc")
    return lambda name, size: large_tables.build(compiler, folder / f"{name}.so", size, size)


def libc() -> Path:
    return Path(next(m.path for m in read_mappings(os.getpid()) if "/libc.so" in m.path))


def test_what_the_tests_build_is_as_large_as_they_say(make: Callable[[str, int], Path]) -> None:
    """Nine rows per function, and one where it ends before the next one begins."""
    with ElfObject.open(make("one", PIECE_BYTES)) as elf:
        built = compile_object(elf)
    functions = PIECE_BYTES // 56 - 1
    assert len(built.rows) == pytest.approx(9 * functions, rel=0.01)
    assert built.skipped == {}
    assert len(np.unique(built.rows.astype(np.uint32))) > 1000


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_rows_are_the_same_in_however_many_pieces_they_are_made(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ElfObject.open(libc()) as elf:
        whole = compile_object(elf)
        monkeypatch.setattr(table, "_ROWS_AT_ONCE", at_once)
        pieces = compile_object(elf)
    assert len(whole.rows) > 10_000
    assert pieces.rows.tolist() == whole.rows.tolist()


def mapping_of(path: Path, start: int) -> Mapping:
    status = path.stat()
    return Mapping(start, start + 4096, "r-xp", 4096, "08:01", status.st_ino, str(path))


class Files(ProcessTables):
    """The files of a process that has nothing mapped."""

    def __call__(self, mapping: Mapping) -> table.UnwindTable | None:
        with ElfObject.open(mapping.path) as elf:
            return self.cache.table_for(elf, self.budget)

    def weight(self, mapping: Mapping) -> int:
        return weight_of(mapping.path)


def test_the_largest_are_left_out(
    make: Callable[[str, int], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Independently of where they are mapped, and of whether an earlier run built them."""
    monkeypatch.setattr(budget, "MAX_BYTES", 6 * PIECE_BYTES)
    monkeypatch.setattr(process, "_SMALL_FILE_BYTES", PIECE_BYTES)
    files = [
        make("five", 5 * PIECE_BYTES),
        make("two", 2 * PIECE_BYTES),
        libc(),
        make("three", 3 * PIECE_BYTES),
    ]
    mappings = [mapping_of(path, 0x10000 * (1 + at)) for at, path in enumerate(files)]
    for _ in range(2):
        tables = Files(os.getpid(), TableCache(tmp_path), TableBudget())
        update = UnwindLayout(tables, tables.weight).update(mappings)
        (failure,) = update.failures
        assert (failure.path, failure.is_over_budget) == (str(files[0]), True)
        assert "5 MB of unwind information" in failure.reason
        assert len(update.mappings) == 4


def test_time_runs_out_within_an_object(
    make: Callable[[str, int], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is abandoned is not kept, and objects that are found later have time again."""
    monkeypatch.setattr(budget, "MAX_CPU_S", 0.0)
    monkeypatch.setattr(budget, "LATER_CPU_S", 1000.0)
    cache, ours = TableCache(tmp_path), TableBudget()
    with ElfObject.open(make("timed", PIECE_BYTES)) as elf:
        with pytest.raises(OverBudgetError, match="CPU time"):
            cache.table_for(elf, ours)
        assert not list(tmp_path.rglob("*.rows"))
        ours.look_again()
        assert len(cache.table_for(elf, ours).rows) > 1000


def test_one_look_has_a_bound(
    make: Callable[[str, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "LATER_CPU_S", 0.0)
    ours = TableBudget()
    ours.look_again()
    with (
        ElfObject.open(make("later", PIECE_BYTES)) as elf,
        pytest.raises(OverBudgetError, match=r"at one time took more than 0 s"),
    ):
        TableCache(None).table_for(elf, ours)


def test_all_looks_together_have_a_bound(
    make: Callable[[str, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has time for an object, until all of it is used."""
    monkeypatch.setattr(budget, "LATER_CPU_S", 1000.0)
    monkeypatch.setattr(budget, "MAX_LATER_CPU_S", 0.5)
    ours, built = TableBudget(), 0
    with ElfObject.open(make("later", PIECE_BYTES)) as elf:

        def build() -> None:
            ours.look_again()
            TableCache(None).table_for(elf, ours)

        with pytest.raises(OverBudgetError, match=r"loaded later took more than 0\.5 s"):
            for _ in range(1000):
                build()
                built += 1
        assert 0 < built < 1000
        with pytest.raises(OverBudgetError):
            build()


def test_the_end_of_a_run_is_no_lack_of_budget(
    make: Callable[[str, int], Path], tmp_path: Path
) -> None:
    ended = False
    ours = TableBudget(lambda: ended)
    with ElfObject.open(make("ended", PIECE_BYTES)) as elf:
        ended = True
        with pytest.raises(NotBuiltError) as error:
            TableCache(tmp_path).table_for(elf, ours)
    assert not isinstance(error.value, OverBudgetError)
    assert isinstance(error.value, ObjectFileError)  # for callers that don't need it


def test_one_object_counts_once(make: Callable[[str, int], Path], tmp_path: Path) -> None:
    """The probes of an allocator are planned by its table before stacks are walked by it."""
    ours = TableBudget()
    size = budget.MAX_BYTES // 2 + 1
    for _ in range(3):
        ours.admit("libone.so", "its digest", size)
    with pytest.raises(OverBudgetError, match=r"libtwo\.so"):
        ours.admit("libtwo.so", "another digest", size)
