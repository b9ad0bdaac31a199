"""Code that was made at run time, named by the map that its process writes, /tmp/perf-PID.map."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from symbol_target import Run, Target, ready

from leaktrace.symbols import jit
from leaktrace.symbols.jit import PerfMap
from leaktrace.symbols.symbolizer import ProcessSymbolizer
from leaktrace.targets.root import TargetRoot


@pytest.fixture
def perf_map(run: Run) -> Iterator[tuple[Target, int, Path]]:
    """A target, a page of code in it, and the map it would write."""
    target = run()
    ready(target)
    (code,) = target.ask("code")
    path = Path(f"/tmp/perf-{target.pid}.map")
    yield target, code, path
    path.unlink(missing_ok=True)


def test_jit_code_is_named_by_its_map(perf_map: tuple[Target, int, Path]) -> None:
    target, code, path = perf_map
    symbolizer = ProcessSymbolizer(target.pid)
    (before,) = symbolizer.symbolize(code + 5)
    assert before.unknown == f"code made at run time; {path} is not there"
    path.write_text(
        f"{code:x} 10 LazyCompile:*shop /srv/shop.js:1\n{code + 16:#x} 20 next\nbad line\n"
    )
    symbolizer.refresh()
    (frame,) = symbolizer.symbolize(code + 5)
    assert (frame.function, frame.offset) == ("LazyCompile:*shop /srv/shop.js:1", 5)
    assert symbolizer.symbolize(code + 16)[-1].function == "LazyCompile:*shop /srv/shop.js:1"
    assert symbolizer.symbolize(code + 17)[-1].function == "next"
    (outside,) = symbolizer.symbolize(code + 200)
    assert outside.unknown == f"code made at run time; {path} does not list it"
    with path.open("a") as file:
        file.write(f"{code + 190:x} 40 added\x1b[31m later\n")
    symbolizer.refresh()
    assert symbolizer.symbolize(code + 200)[-1].function == r"added\x1b[31m later"


def test_a_map_that_is_not_the_users_own_is_ignored(
    perf_map: tuple[Target, int, Path], require_root: None
) -> None:
    target, code, path = perf_map
    path.write_text(f"{code:x} 10 forged\n")
    os.chown(path, 12345, 12345)
    (frame,) = ProcessSymbolizer(target.pid).symbolize(code + 5)
    assert frame.function is None
    assert frame.unknown and "does not belong to" in frame.unknown


def test_a_map_that_is_a_link_is_ignored(
    perf_map: tuple[Target, int, Path], tmp_path: Path
) -> None:
    target, code, path = perf_map
    (tmp_path / "elsewhere").write_text(f"{code:x} 10 forged\n")
    path.symlink_to(tmp_path / "elsewhere")
    (frame,) = ProcessSymbolizer(target.pid).symbolize(code + 5)
    assert frame.function is None


def test_a_map_that_is_a_fifo_does_not_stop_us(perf_map: tuple[Target, int, Path]) -> None:
    target, code, path = perf_map
    os.mkfifo(path)
    (frame,) = ProcessSymbolizer(target.pid).symbolize(code + 5)
    assert frame.function is None


def generated(tmp_path: Path, text: str) -> tuple[PerfMap, Path]:
    """A perf map without a process."""
    (tmp_path / "tmp").mkdir()
    path = tmp_path / "tmp/perf-7.map"
    path.write_text(text)
    return PerfMap(TargetRoot(str(tmp_path)), 7, os.geteuid()), path


def test_the_newest_entry_of_a_place_wins(tmp_path: Path) -> None:
    table, _ = generated(tmp_path, "100 10 old\n100 10 new\n108 4 nested\nff 1 before\n")
    assert table.lookup(0x100) == ("new", 0)
    assert table.lookup(0x109) == ("nested", 1)
    assert table.lookup(0x10D) == ("new", 13)
    assert table.lookup(0x110) is None
    assert table.lookup(0xFF) == ("before", 0)


def test_lines_of_a_map_that_are_none(tmp_path: Path) -> None:
    lines = ["", "100", "100 10", "x 10 no", "100 0 none", "100 -1 no", f"{1 << 64:x} 1 far",
             "ffffffffffffffff 10 beyond", "200 fffffffff large",
             "300 10 \t two  words "]  # fmt: skip
    table, _ = generated(tmp_path, "\n".join(lines))
    assert [table.lookup(a) for a in (0x100, 0x200, (1 << 64) - 1)] == [None] * 3
    assert table.lookup(0x300) == ("two  words ", 0)


def test_the_last_line_of_a_map_may_grow(tmp_path: Path) -> None:
    table, path = generated(tmp_path, "100 10 one\n200 10 tw")
    assert table.lookup(0x200) == ("tw", 0)
    with path.open("a") as file:
        file.write("o\n300 10 three")
    table.refresh()
    assert table.lookup(0x200) == ("two", 0)
    assert table.lookup(0x300) == ("three", 0)
    assert table.lookup(0x100) == ("one", 0)


def test_only_what_a_map_has_grown_by_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []
    parse = PerfMap._parse

    def noted(self: PerfMap, text: bytes) -> None:
        parsed.append(text)
        parse(self, text)

    monkeypatch.setattr(PerfMap, "_parse", noted)
    table, path = generated(tmp_path, "100 10 one\n")
    assert table.lookup(0x200) is None
    with path.open("a") as file:
        file.write("200 10 two\n100 10 again\n")
    table.refresh()
    assert table.lookup(0x200) == ("two", 0)
    assert table.lookup(0x100) == ("again", 0)
    table.refresh()
    assert table.lookup(0x300) is None
    assert parsed == [b"100 10 one\n", b"200 10 two\n100 10 again\n"]


@pytest.mark.parametrize("text", ["300 10 other\n", "300 10 six\n", "300 10 as long\n400 10 x\n"])
def test_a_map_that_was_rewritten(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jit, "_PAUSE_FACTOR", 0)
    table, path = generated(tmp_path, "100 10 first\n")
    assert table.lookup(0x100) == ("first", 0)
    path.write_text(text)
    os.utime(path, ns=(1, 1))  # another time than before, whatever the clock's step
    table.refresh()
    assert table.lookup(0x100) is None
    found = table.lookup(0x300)
    assert found and found.name == text.splitlines()[0].split(None, 2)[2]


def test_a_map_is_not_looked_at_for_each_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    table, path = generated(tmp_path, "")
    assert table.lookup(0x100) is None
    path.write_text("100 10 late\n")
    clock[0] += 0.9
    assert table.lookup(0x100) is None
    clock[0] += 0.2
    assert table.lookup(0x100) == ("late", 0)
    path.unlink()
    table.refresh()
    assert table.lookup(0x100) == ("late", 0)


def test_a_map_that_changes_all_the_time_is_not_read_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(1000)  # whatever it does takes a second or more
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    table, path = generated(tmp_path, "100 10 first\n")
    assert table.lookup(0x100) == ("first", 0)
    path.write_text("200 10 second\n")
    table.refresh()
    assert table.lookup(0x100) == ("first", 0)
    for _ in range(40):
        next(clock)
    table.refresh()
    assert table.lookup(0x200) == ("second", 0)


def test_a_map_of_many_lines_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "_MAX_ENTRIES", 5)
    table, path = generated(tmp_path, "".join(f"{i:x} 10 f{i}\n" for i in range(0, 0x40, 0x10)))
    assert table.lookup(0x100) is None
    assert table.problem == "/tmp/perf-7.map does not list it"
    with path.open("a") as file:
        file.write("40 10 f64\n50 10 f80\n")
    table.refresh()
    assert table.lookup(0x45) == ("f64", 5)
    assert table.lookup(0x55) is None
    assert "16 MiB and 5 lines" in table.problem


def test_a_large_map_is_cut(tmp_path: Path) -> None:
    table, path = generated(tmp_path, "100 10 first\n")
    with path.open("a") as file:
        file.write(f"200 10 {'x' * (16 << 20)}\n300 10 behind\n")
    assert table.lookup(0x100) == ("first", 0)
    assert table.lookup(0x200) is None
    assert "16 MiB and 500,000 lines" in table.problem
