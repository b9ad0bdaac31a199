"""Processes by name and by control group, against real processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from leaktrace.errors import TargetError
from leaktrace.targets.selection import processes_in_cgroup, processes_named


@pytest.fixture
def sleepers(tmp_path: Path) -> Iterator[list[int]]:
    """Three processes of a program with a name that no other has; it is longer than the 15
    bytes of a process's name."""
    program = tmp_path / f"a-sleeper-{os.getpid()}-of-the-tests"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    with ExitStack() as stack:
        started = [stack.enter_context(subprocess.Popen([program, "600"])) for _ in range(3)]
        yield sorted(one.pid for one in started)
        for one in started:
            one.kill()


@pytest.fixture
def whole_name() -> str:
    return f"a-sleeper-{os.getpid()}-of-the-tests"


def not_children_of_this(pids: list[int], pattern: str) -> tuple[int, ...]:
    """What a leaktrace finds that has not started these processes itself."""
    code = (
        "import re, sys; from leaktrace.targets.selection import processes_named;"
        "print(*processes_named(re.compile(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, pattern],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert pids
    return tuple(map(int, done.stdout.split()))


@pytest.mark.parametrize("how", ["^{}$", "^{:.15}$", "{:.14}"], ids=["file", "comm", "part"])
def test_by_name(sleepers: list[int], whole_name: str, how: str) -> None:
    """Of the program's file or of the process (comm), and a part of either."""
    assert not_children_of_this(sleepers, how.format(whole_name)) == tuple(sleepers)


def test_own_processes_are_left_out(sleepers: list[int], whole_name: str) -> None:
    """leaktrace does not trace what it has started itself, nor itself."""
    assert sleepers
    with pytest.raises(TargetError):
        processes_named(re.compile(f"^{whole_name}$"))


def test_no_such_name() -> None:
    with pytest.raises(TargetError, match="no process has a name that matches"):
        processes_named(re.compile("^no process is called this$"))


def test_kernel_threads_are_left_out() -> None:
    with pytest.raises(TargetError):
        processes_named(re.compile("^kthreadd$"))


def test_no_such_control_group() -> None:
    with pytest.raises(TargetError, match="there is no control group"):
        processes_in_cgroup("no-such-group.service")
