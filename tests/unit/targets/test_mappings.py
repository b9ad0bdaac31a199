"""/proc/PID/maps, of processes that exist and in text."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, strategies

from leaktrace import capabilities
from leaktrace.capabilities import Capability
from leaktrace.errors import NotAnObjectError, ObjectFileError, TargetError
from leaktrace.targets import mapped_files
from leaktrace.targets.mapped_files import MappedFiles, UnreachableFileError
from leaktrace.targets.mappings import Mapping, device_text, parse_mappings, read_mappings
from leaktrace.targets.root import TargetRoot
from leaktrace.targets.vdso import is_vdso, read_vdso


def map_file(path: Path) -> mmap.mmap:
    path.write_bytes(bytes(mmap.PAGESIZE * 2))
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), mmap.PAGESIZE, access=mmap.ACCESS_READ,
                         offset=mmap.PAGESIZE)  # fmt: skip


def test_our_own_mappings() -> None:
    mappings = read_mappings(os.getpid())
    assert all(one.end <= other.start for one, other in pairwise(mappings))
    program = os.stat(sys.executable)  # noqa: PTH116
    ours = [m for m in mappings if m.inode == program.st_ino]
    assert any(m.is_executable for m in ours)
    assert not all(m.is_executable for m in ours)
    assert all(m.is_file and m.path == str(Path(sys.executable).resolve()) for m in ours)
    stack = next(m for m in mappings if m.path == "[stack]")
    assert not stack.is_file
    assert not stack.is_executable
    assert stack.permissions == "rw-p"


@pytest.mark.parametrize(
    "name", ["two  words ", "line\nbreak", "ünïcödé", "bytes\udcff", "a (deleted)"]
)
def test_names_of_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with map_file(path):
        inode = path.stat().st_ino
        found = next(m for m in read_mappings(os.getpid()) if m.inode == inode)
    # The kernel doesn't distinguish a name that ends like this from a deleted file.
    assert found.path == str(path).removesuffix(" (deleted)")
    assert (found.offset, found.end - found.start) == (mmap.PAGESIZE, mmap.PAGESIZE)


def test_a_deleted_file(tmp_path: Path, require_root: None) -> None:
    path = tmp_path / "gone"
    with map_file(path):
        path.unlink()
        found = next(m for m in read_mappings(os.getpid()) if m.path == str(path))
        assert found.deleted
        with pytest.raises(NotAnObjectError):  # it was found, and read
            MappedFiles(os.getpid()).elf(found)


def test_another_file_that_has_come_to_its_place(tmp_path: Path) -> None:
    """What is opened by the address of a mapping is taken only if it is that file."""
    path, other = tmp_path / "one", tmp_path / "other"
    other.write_bytes(b"")
    with map_file(path):
        found = next(m for m in read_mappings(os.getpid()) if m.path == str(path))
    with path.open("rb") as file, other.open("rb") as wrong:
        assert found.is_of(file.fileno())
        assert not found.is_of(wrong.fileno())


@pytest.mark.parametrize(
    ("major", "minor", "text"), [(8, 1, "08:01"), (0, 0, "00:00"), (259, 17, "103:11")]
)
def test_device_numbers_as_the_kernel_writes_them(major: int, minor: int, text: str) -> None:
    assert device_text(os.makedev(major, minor)) == text
    (mapping,) = parse_mappings(f"1000-2000 r--p 00000000 {text} 5 /file".encode())
    status = os.stat_result((0, 5, os.makedev(major, minor), 0, 0, 0, 0, 0, 0, 0))
    assert mapping.has_numbers_of(status)
    status = os.stat_result((0, 6, os.makedev(major, minor), 0, 0, 0, 0, 0, 0, 0))
    assert not mapping.has_numbers_of(status)


def refused_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, granted: set[Capability]
) -> UnreachableFileError:
    """The error for a mapped file when the kernel refuses all links to it, although these
    capabilities are granted."""

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    with map_file(path), monkeypatch.context() as patch:
        found = next(m for m in read_mappings(os.getpid()) if m.path == str(path))
        files = MappedFiles(os.getpid())
        for module in (capabilities, mapped_files):
            patch.setattr(module, "is_granted", lambda one: one in granted)
        patch.setattr(os, "open", refuse)
        patch.setattr(TargetRoot, "find", refuse)
        with pytest.raises(UnreachableFileError) as raised:
            files.elf(found)
    return raised.value


@pytest.mark.parametrize(
    ("granted", "named"),
    [
        (set(), Capability.DAC_READ_SEARCH),
        ({Capability.DAC_READ_SEARCH}, Capability.SYS_PTRACE),
        ({Capability.DAC_READ_SEARCH, Capability.SYS_PTRACE}, Capability.CHECKPOINT_RESTORE),
    ],
)
def test_a_refusal_names_a_capability_that_is_missing(
    granted: set[Capability], named: Capability, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refused_file(tmp_path / "file", monkeypatch, granted).as_access_error()
    assert error.capability == named
    assert f"{named} is missing" in error.message
    assert f"grant {named}" in error.hint


def test_a_refusal_in_spite_of_all_capabilities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Advice to grant a capability that is already granted would not help."""
    error = refused_file(tmp_path / "file", monkeypatch, set(Capability)).as_access_error()
    assert "grant " not in error.hint
    assert "security module" in error.hint
    assert "is granted" in error.message


def test_the_vdso() -> None:
    vdso = next(m for m in read_mappings(os.getpid()) if is_vdso(m))
    with read_vdso(os.getpid(), vdso) as elf:
        assert elf.code_ranges()
        assert elf.shown == "[vdso]"


@pytest.mark.parametrize("size_bytes", [mmap.PAGESIZE, 1 << 30])
def test_a_vdso_that_cannot_be_read(size_bytes: int) -> None:
    """It is not mapped there, or too large for one."""
    vdso = Mapping(mmap.PAGESIZE, mmap.PAGESIZE + size_bytes, "r-xp", 0, "00:00", 0, "[vdso]")
    with pytest.raises(ObjectFileError, match="vDSO can't be read"):
        read_vdso(os.getpid(), vdso)


def test_a_process_that_has_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(TargetError):  # a zombie has no memory any more
        read_mappings(child.pid)
    child.wait()
    with pytest.raises(TargetError, match=str(child.pid)):
        read_mappings(child.pid)


@pytest.mark.may_skip("a container doesn't see the kernel's threads")
def test_kernel_threads_have_no_memory(require_root: None) -> None:
    if Path("/proc/2/comm").read_text().strip() != "kthreadd":
        pytest.skip("needs to see the kernel's threads")
    with pytest.raises(TargetError, match="kernel thread"):
        read_mappings(2)


def test_lines_as_the_kernel_writes_them() -> None:
    text = (
        b"5565a000-5565b000 r-xp 00001000 fd:01 1234                       /opt/a b/x (deleted)\n"
        b"7f0000000000-7f0000021000 ---p 00000000 00:00 0 \n"
        b"7f0000100000-7f0000200000 rwxs 00000000 00:01 9 /memfd:jit (deleted)\n"
        b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n"
        b"7f00004"
    )
    assert parse_mappings(text) == (
        Mapping(0x5565A000, 0x5565B000, "r-xp", 0x1000, "fd:01", 1234, "/opt/a b/x", deleted=True),
        Mapping(0x7F0000000000, 0x7F0000021000, "---p", 0, "00:00", 0, ""),
        Mapping(0x7F0000100000, 0x7F0000200000, "rwxs", 0, "00:01", 9, "/memfd:jit", deleted=True),
        Mapping(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000, "--xp", 0, "00:00", 0, "[vsyscall]"),
    )


@given(strategies.binary(max_size=400))
def test_any_text_is_survived(text: bytes) -> None:
    assert all(isinstance(mapping, Mapping) for mapping in parse_mappings(text))
