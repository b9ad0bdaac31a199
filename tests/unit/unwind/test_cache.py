"""Tables on disk: found again, never wrong, and never a cause of failure."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from leaktrace.abi.process import Rule
from leaktrace.cache.directory import user_cache_directory
from leaktrace.elf.object import ElfObject
from leaktrace.unwind import cache as cache_module
from leaktrace.unwind.cache import TableCache
from leaktrace.unwind.rows import Row, pack
from leaktrace.unwind.table import CodeSegment, UnwindSource, UnwindTable, index_rows

IS_ROOT = os.geteuid() == 0
NOBODY = 65534


def source(name: int = 0) -> UnwindSource:
    """Sources differ by their base here."""
    segment = CodeSegment(0, 0x1000, 0x1000)
    return UnwindSource(shown="made by hand", sections=(), base=name, segments=(segment,))


def table(of: UnwindSource, row_count: int = 100) -> UnwindTable:
    rows = np.array(
        [pack(Row(16 * i, Rule.RULE_RSP, 8 + 8 * (i % 9), 0)) for i in range(row_count)],
        dtype=np.uint64,
    )
    return index_rows(of, rows, {"malformed record": 3})


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def stored_files(home: Path) -> list[Path]:
    directory = home / "leaktrace" / "unwind"
    return sorted(directory.iterdir()) if directory.exists() else []


def same(one: UnwindTable | None, other: UnwindTable) -> bool:
    return (
        one is not None
        and one.rows.tolist() == other.rows.tolist()
        and one.pages.tolist() == other.pages.tolist()
        and (one.base, one.segments, one.skipped) == (other.base, other.segments, other.skipped)
    )


def test_a_stored_table_is_found_again(home: Path) -> None:
    cache = TableCache(home)
    wanted = source()
    assert cache.load(wanted, "abcd") is None
    cache.store(wanted, "abcd", table(wanted))
    assert same(TableCache(home).load(wanted, "abcd"), table(wanted))
    assert cache.problem == ""
    (stored,) = stored_files(home)
    assert stored.name.startswith("abcd-")
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert stat.S_IMODE(stored.parent.stat().st_mode) == 0o700


def test_a_build_id_alone_does_not_find_another_objects_table(home: Path) -> None:
    cache = TableCache(home)
    cache.store(source(1), "abcd", table(source(1)))
    assert cache.load(source(2), "abcd") is None
    cache.store(source(3), None, table(source(3)))
    assert cache.load(source(3), None) is not None


def test_a_real_object_is_compiled_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ElfObject.open(Path(sys.executable).resolve()) as elf:
        compiled = TableCache(home).table_for(elf)

        def refuse(source: UnwindSource) -> UnwindTable:
            raise AssertionError(f"{source.shown} is compiled again")

        monkeypatch.setattr(cache_module, "compile_source", refuse)
        assert same(TableCache(home).table_for(elf), compiled)


def corrupt_at(position: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        at = position % len(data)
        return data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]

    return change


@pytest.mark.parametrize(
    "change",
    [
        *(corrupt_at(at) for at in (0, 8, 12, 16, 24, 40, 60, 200, -1)),
        lambda data: b"",
        lambda data: data[:20],
        lambda data: data[:-1],
        lambda data: data[:-8],
        lambda data: data + bytes(8),
        lambda data: bytes(len(data)),
    ],
)
def test_a_damaged_file_is_removed_and_replaced(
    home: Path, change: Callable[[bytes], bytes]
) -> None:
    cache, wanted = TableCache(home), source()
    cache.store(wanted, "abcd", table(wanted))
    (stored,) = stored_files(home)
    stored.write_bytes(change(stored.read_bytes()))
    assert cache.load(wanted, "abcd") is None
    assert stored_files(home) == []
    cache.store(wanted, "abcd", table(wanted))
    assert same(cache.load(wanted, "abcd"), table(wanted))


def test_rows_out_of_order_are_not_loaded_even_with_a_right_checksum(home: Path) -> None:
    cache, wanted = TableCache(home), source()
    good = table(wanted)
    bad = UnwindTable(good.rows[::-1].copy(), good.pages, good.base, good.segments, {})
    cache.store(wanted, "abcd", bad)
    assert len(stored_files(home)) == 1
    assert cache.load(wanted, "abcd") is None


def test_the_longest_unused_go_first(home: Path) -> None:
    size = len(cache_module._encode(table(source())))
    cache = TableCache(home, limit_bytes=3 * size)
    for name in range(3):
        cache.store(source(name), "abcd", table(source(name)))
        (newest,) = [path for path in stored_files(home) if source(name).digest in path.name]
        os.utime(newest, (1000 + name, 1000 + name))
    assert cache.load(source(0), "abcd") is not None  # used now, so 1 is the oldest
    cache.store(source(3), "abcd", table(source(3)))
    kept = [name for name in range(4) if cache.load(source(name), "abcd") is not None]
    assert kept == [0, 2, 3]


def test_a_table_larger_than_the_cache_is_not_stored(home: Path) -> None:
    cache = TableCache(home, limit_bytes=100)
    cache.store(source(), "abcd", table(source()))
    assert stored_files(home) == []


def test_what_a_killed_process_left_is_removed(home: Path) -> None:
    cache = TableCache(home)
    cache.store(source(1), "abcd", table(source(1)))
    directory = stored_files(home)[0].parent
    old, new = directory / ".new-1", directory / ".new-2"
    old.write_bytes(b"half a table")
    new.write_bytes(b"being written now")
    os.utime(old, (1000, 1000))
    cache.store(source(2), "abcd", table(source(2)))
    assert not old.exists()
    assert new.exists()
    assert len(stored_files(home)) == 3


def test_links_are_not_followed(home: Path, tmp_path: Path) -> None:
    cache, wanted = TableCache(home), source()
    cache.store(wanted, "abcd", table(wanted))
    (stored,) = stored_files(home)
    elsewhere = tmp_path / "elsewhere"
    stored.rename(elsewhere)
    stored.symlink_to(elsewhere)
    assert cache.load(wanted, "abcd") is None
    assert cache.problem
    cache.store(wanted, "abcd", table(wanted))  # replaces the link, not what it leads to
    assert not stored.is_symlink()
    assert same(cache.load(wanted, "abcd"), table(wanted))


@pytest.mark.parametrize("part", ["leaktrace", "leaktrace/unwind"])
def test_a_linked_directory_is_not_used(home: Path, tmp_path: Path, part: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = home / part
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    cache = TableCache(home)
    cache.store(source(), "abcd", table(source()))
    assert cache.problem
    assert list(elsewhere.iterdir()) == []


def test_a_file_that_others_may_write_is_not_trusted(home: Path) -> None:
    cache, wanted = TableCache(home), source()
    cache.store(wanted, "abcd", table(wanted))
    (stored,) = stored_files(home)
    stored.chmod(0o666)
    assert cache.load(wanted, "abcd") is None
    assert "others may write" in cache.problem
    stored.chmod(0o600)
    stored.parent.chmod(0o777)
    assert cache.load(wanted, "abcd") is None
    assert "others may write" in cache.problem


def test_a_fifo_in_the_place_of_a_file_does_not_block(home: Path) -> None:
    cache, wanted = TableCache(home), source()
    cache.store(wanted, "abcd", table(wanted))
    (stored,) = stored_files(home)
    stored.unlink()
    os.mkfifo(stored, 0o600)
    assert cache.load(wanted, "abcd") is None
    assert cache.problem


@pytest.mark.skipif(not IS_ROOT, reason="needs root, to make files of another user")
@pytest.mark.parametrize("part", ["", "leaktrace", "leaktrace/unwind", "file"])
def test_root_uses_nothing_of_another_user(home: Path, part: str) -> None:
    cache, wanted = TableCache(home), source()
    cache.store(wanted, "abcd", table(wanted))
    (stored,) = stored_files(home)
    os.chown(stored if part == "file" else home / part, NOBODY, NOBODY)
    before = stored.stat()
    assert cache.load(wanted, "abcd") is None
    assert "others may write" in cache.problem
    cache.store(source(2), "abcd", table(source(2)))
    if part != "file":
        assert stored_files(home) == [stored]
        assert stored.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.skipif(not IS_ROOT, reason="needs root, which may follow any link")
def test_root_follows_no_link_on_the_way(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    link = tmp_path / "link"
    link.symlink_to(real)
    cache = TableCache(link)
    cache.store(source(), "abcd", table(source()))
    assert cache.problem
    assert list(real.iterdir()) == []


def test_an_unusable_place_is_only_noted(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    for home in (blocked, blocked / "below", Path("/proc/cache")):
        cache = TableCache(home)
        cache.store(source(), "abcd", table(source()))
        assert cache.load(source(), "abcd") is None
        assert isinstance(cache.problem, str)
    assert blocked.read_text() == "not a directory"
    none = TableCache(None)
    none.store(source(), "abcd", table(source()))
    assert none.load(source(), "abcd") is None
    assert none.problem == "no cache directory"


def test_user_cache_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert user_cache_directory() == Path("/somewhere")
    monkeypatch.setenv("HOME", "/home/of/somebody")
    for unusable in ("relative/path", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert user_cache_directory() == Path("/home/of/somebody/.cache")


AT_ONCE = """
import sys
from pathlib import Path
from leaktrace.elf.object import ElfObject
from leaktrace.unwind.cache import TableCache

home, path = Path(sys.argv[1]), Path(sys.argv[2])
sys.stdin.readline()  # all begin together
cache = TableCache(home, limit_bytes=int(sys.argv[3]))
with ElfObject.open(path) as elf:
    for _ in range(5):
        print(hash(cache.table_for(elf).rows.tobytes()), cache.problem)
"""


@pytest.mark.parametrize("limit_bytes", [1 << 28, 40_000])
def test_several_processes_at_once(home: Path, limit_bytes: int) -> None:
    """Also where nothing fits for long, so that files are removed while they are read."""
    path = Path(sys.executable).resolve()
    command = [sys.executable, "-c", AT_ONCE, str(home), str(path), str(limit_bytes)]
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert len({line for output in outputs for line in output.splitlines()}) == 1
    assert all(not path.name.startswith(".new-") for path in stored_files(home))
