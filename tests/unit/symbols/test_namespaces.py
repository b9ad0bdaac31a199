"""Symbols of a process that has another root directory or other namespaces."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from symbol_target import Run, physical, ready

from leaktrace.symbols.symbolizer import ProcessSymbolizer
from leaktrace.targets.root import TargetRoot


def in_own_namespaces(directory: Path, command: Path) -> list[str]:
    """A command that sees `directory` as /tmp/inside, in new mount and pid namespaces."""
    script = 'mount --bind "$1" "$2" && exec "$2/target"'
    inside = directory.parent / "inside"
    inside.mkdir()
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh",
            str(directory), str(inside)]  # fmt: skip


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@pytest.mark.may_skip("a container may not make namespaces, even as root")
def test_other_namespaces(
    run: Run,
    programs: Path,
    tmp_path: Path,
    require_root: None,
    require_tool: Callable[[str], str],
) -> None:
    """The target's path exists only for the target, and its own pid is another."""
    require_tool("unshare")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    shutil.copy(programs / "target", hidden)
    probe = ["unshare", "--mount", "--pid", "--fork", "true"]
    if subprocess.run(probe, check=False, capture_output=True).returncode:
        pytest.skip("needs to make mount and pid namespaces")
    outer = run(*in_own_namespaces(hidden, hidden / "target"))
    stack = ready(outer)
    pid = child_of(outer.pid)
    symbolizer = ProcessSymbolizer(pid)
    frames = physical(symbolizer, stack)
    assert [frame.function for frame in frames[:3]] == ["inner", "outer", "main"]
    assert frames[0].module == str(tmp_path / "inside" / "target")
    assert not Path(frames[0].module).exists()
    (code,) = outer.ask("code")
    (frame,) = symbolizer.symbolize(code + 1)
    assert frame.unknown and "/tmp/perf-1.map" in frame.unknown


@pytest.mark.may_skip("not every distribution has a static libc")
def test_a_root_of_its_own(
    run: Run, programs: Path, tmp_path: Path, require_root: None, require_tool: Callable[[str], str]
) -> None:
    """chroot, as a container: debug files of the container's own are found in it."""
    chroot, compiler = require_tool("chroot"), require_tool("gcc")
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "tmp").mkdir()
    program = root / "bin/target"
    options = ["-g", "-O1", "-static", "-Wl,--build-id"]
    command = [compiler, *options, "-o", str(program), str(programs / "target.c")]
    built = subprocess.run(command, check=False, capture_output=True)
    if built.returncode:
        pytest.skip("needs a static libc")
    debug = tmp_path / "target.debug"
    subprocess.run(["objcopy", "--only-keep-debug", program, debug], check=True)
    subprocess.run(["objcopy", "--strip-all", f"--add-gnu-debuglink={debug}", program], check=True)
    (root / "bin/.debug").mkdir()
    shutil.copy(debug, root / "bin/.debug/target.debug")
    target = run(chroot, root, "/bin/target")
    stack = ready(target)
    symbolizer = ProcessSymbolizer(target.pid)
    (code,) = target.ask("code")
    (root / f"tmp/perf-{target.pid}.map").write_text(f"{code:x} 10 jitted\n")
    assert symbolizer.symbolize(code + 4)[-1].function == "jitted"
    target.end()  # the root directory is reachable still
    frames = physical(symbolizer, stack)
    assert [frame.function for frame in frames[:3]] == ["inner", "outer", "main"]
    assert frames[0].source is not None


def test_a_root_without_openat2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 5.6, or where a filter forbids the call."""
    (tmp_path / "file").write_text("content")

    class OldLibrary:
        @staticmethod
        def syscall(*_: object) -> int:
            ctypes.set_errno(38)  # ENOSYS
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: OldLibrary)
    descriptor = TargetRoot(str(tmp_path)).open("/file")
    with os.fdopen(descriptor) as file:
        assert file.read() == "content"
