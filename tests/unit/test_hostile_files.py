"""Files of other owners, at every path that leaktrace opens: nothing hangs or fails with any kind
of file, and files that act when they are opened are not opened."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hostile_files import (
    KINDS,
    NEVER_OPENED,
    TERABYTE,
    Opened,
    is_leasable,
    leased,
    not_hanging,
    put,
)

from leaktrace.cache.files import FileCache
from leaktrace.elf.object import ElfObject
from leaktrace.errors import LeaktraceError, ObjectFileError
from leaktrace.options import ObjectChoice
from leaktrace.process.probes.planner import Planner
from leaktrace.process.probes.program_files import objects_of_program
from leaktrace.symbols import debuginfod
from leaktrace.symbols.debug_files import DebugFile, find_debug_file
from leaktrace.symbols.jit import PerfMap
from leaktrace.targets.root import TargetRoot

pytestmark = pytest.mark.usefixtures("require_root")  # devices

SAMPLE = "int visible(int n) { return n + 1; }\n"
LIMIT_BYTES = 1 << 20


@dataclass(frozen=True)
class Place:
    """A path below a directory where a file is looked for, and a function that returns the result:
    a reason in words, or "" if there is none."""

    path: str
    look: Callable[[Path], str]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, require_tool: Callable[[str], str]) -> Path:
    """Stripped, with a build-id and a .gnu_debuglink; its debug file is next to it."""
    folder = tmp_path_factory.mktemp("sample")
    source, library, debug = folder / "s.c", folder / "libsample.so", folder / "s.debug"
    source.write_text(SAMPLE)
    options = ["-shared", "-fPIC", "-g", "-Wl,--build-id=0x0123456789abcdef"]
    subprocess.run([require_tool("gcc"), *options, "-o", library, source], check=True)
    subprocess.run(["objcopy", "--only-keep-debug", library, debug], check=True)
    subprocess.run(["objcopy", "--strip-all", f"--add-gnu-debuglink={debug}", library], check=True)
    return library


def perf_map(root: Path) -> str:
    table = PerfMap(TargetRoot(str(root)), 7, os.getuid())
    assert table.lookup(0x100) is None
    return table.problem


def debug_file(root: Path) -> str:
    elf = ElfObject.open(root / "opt/libsample.so")
    roots = (TargetRoot(str(root)),)
    found = find_debug_file(elf, "/opt/libsample.so", roots)
    assert found.elf is None
    return found.problem


def mapped_object(root: Path) -> str:
    with pytest.raises(ObjectFileError) as caught:
        ElfObject.open(root / "object")
    return caught.value.message


def chosen_object(root: Path) -> str:
    """-O PATH, in the root of a process."""
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        try:
            with pytest.raises(ObjectFileError) as caught:
                Planner(ObjectChoice(path=str(root / "object"))).plan_process(sleeper.pid)
        finally:
            sleeper.kill()
    return caught.value.message


def program(root: Path) -> str:
    with pytest.raises(LeaktraceError) as caught:
        list(objects_of_program(str(root / "program")))
    return caught.value.message


def interpreter(root: Path) -> str:
    """The interpreter of a script."""
    (root / "script").write_text(f"#!{root / 'program'}\n")
    with pytest.raises(LeaktraceError) as caught:
        list(objects_of_program(str(root / "script")))
    return caught.value.message


def kept_file(root: Path) -> str:
    cache = FileCache(root, "unwind", ".rows", LIMIT_BYTES)
    data = cache.read("name")
    assert data in (None, b"")
    return cache.problem


def kept_debug_file(root: Path) -> str:
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises((debuginfod.DebuginfodError, ObjectFileError)) as caught,
    ):
        patch.setenv("DEBUGINFOD_URLS", "http://127.0.0.1:1")
        kept = debuginfod.kept_file("0123456789abcdef")
        raise ObjectFileError("" if kept is None else "it was taken")
    return str(caught.value)


BUILD_ID = "usr/lib/debug/.build-id/01/23456789abcdef.debug"
PLACES = {
    "perf map": Place("tmp/perf-7.map", perf_map),
    "debug file by build-id": Place(BUILD_ID, debug_file),
    "debug file next to the object": Place("opt/s.debug", debug_file),
    "debug file in .debug": Place("opt/.debug/s.debug", debug_file),
    "debug file under /usr/lib/debug": Place("usr/lib/debug/opt/s.debug", debug_file),
    "mapped object": Place("object", mapped_object),
    "chosen object": Place("object", chosen_object),
    "program": Place("program", program),
    "interpreter": Place("program", interpreter),
    "cache": Place("leaktrace/unwind/name.rows", kept_file),
    "debuginfod's cache": Place("leaktrace/debuginfod/0123456789abcdef/debuginfo", kept_debug_file),
}


@pytest.fixture
def root(
    tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Path]:
    (tmp_path / "opt").mkdir()
    shutil.copy(library, tmp_path / "opt")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("DEBUGINFOD_URLS", "")
    yield tmp_path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_in_the_place_of_a_file(place: str, kind: str, root: Path) -> None:
    at = PLACES[place]
    path = put(kind, root / at.path)
    opened = Opened(path) if kind in NEVER_OPENED else None
    with not_hanging():
        problem = at.look(root)
    assert "\n" not in problem
    if "cache" not in place and kind != "empty file":
        assert problem
    if kind in NEVER_OPENED:
        assert "not a regular file" in problem or kind == "directory"
    if opened is not None:
        assert not opened
        opened.close()


@pytest.mark.parametrize("place", PLACES)
def test_a_file_with_a_lease_does_not_block(place: str, root: Path) -> None:
    at = PLACES[place]
    path = put("empty file", root / at.path)
    if not is_leasable(path):
        pytest.skip("this file system has no leases")
    with leased(path), not_hanging():
        problem = at.look(root)
    assert os.strerror(11) in problem  # EAGAIN: it would have had to wait


def test_a_debug_file_that_is_a_hole_is_not_read(root: Path, library: Path) -> None:
    """Its checksum would take an hour."""
    debug = root / "opt/s.debug"
    shutil.copy(library.with_name("s.debug"), debug)
    assert find_debug_file_of(root).elf is not None
    os.truncate(debug, TERABYTE)
    with not_hanging():
        found = find_debug_file_of(root)
    assert found.elf is None
    assert "too large to be checked" in found.problem


def find_debug_file_of(root: Path) -> DebugFile:
    elf = ElfObject.open(root / "opt/libsample.so")
    return find_debug_file(elf, "/opt/libsample.so", (TargetRoot(str(root)),))


def test_a_perf_map_that_changes_while_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    path = tmp_path / "tmp/perf-7.map"
    text = "".join(f"{i * 16:x} 10 function_{i}\n" for i in range(20_000))
    path.write_text(text)
    ended = threading.Event()

    def change() -> None:
        while not ended.is_set():
            os.truncate(path, 100)
            path.write_text(text)

    changer = threading.Thread(target=change)
    changer.start()
    try:
        for _ in range(200):
            table = PerfMap(TargetRoot(str(tmp_path)), 7, os.getuid())
            found = table.lookup(0x10)
            assert found is None or found.name == "function_1"
    finally:
        ended.set()
        changer.join()


def test_a_link_in_the_targets_root_leads_nowhere_else(root: Path) -> None:
    """-O PATH where the process has a link to one of our own files there."""
    jail = root / "jail"
    jail.mkdir()
    (jail / "object.so").symlink_to(sys.executable)
    shutil.copy("/bin/sleep", jail)
    with pytest.raises(FileNotFoundError):
        TargetRoot(str(jail)).open("/object.so")
