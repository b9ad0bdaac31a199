"""A look at all processes, compared with what ps(1) and the processes say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from leaktrace.ranking import processes
from leaktrace.ranking.processes import scan, unit_of

HOLDS = """
import mmap, sys
block = mmap.mmap(-1, {bytes}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
block.write(b"x" * {bytes})
print(open("/proc/self/status").read().replace("\\n", ";"), flush=True)
sys.stdin.read()
"""


def holder(size_bytes: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDS.format(bytes=size_bytes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_what_a_process_holds_is_what_it_says_itself() -> None:
    with holder(32 << 20) as child:
        assert child.stdout is not None
        said = child.stdout.readline().decode()
        one = scan().processes[child.pid]
        child.communicate()
    status = dict(part.split(":", 1) for part in said.split(";") if ":" in part)
    anonymous_bytes = int(status["RssAnon"].split()[0]) << 10
    # It has touched a few pages to print this, and kernels count with some delay.
    assert abs(one.memory.resident.anonymous - anonymous_bytes) <= 128 * 4096
    assert one.memory.resident.anonymous >= 32 << 20
    assert one.command == status["Name"].strip()
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    assert one.start_ticks >= ticks  # it started after this process


def test_a_second_look_finds_what_has_changed() -> None:
    with holder(1 << 20) as child:
        assert child.stdout is not None
        child.stdout.readline()
        first = scan()
        second = scan(first)
        assert second.processes[child.pid] == first.processes[child.pid]
        child.communicate()
    assert child.pid not in scan(second).processes


def test_the_processes_are_those_of_ps() -> None:
    """Twice, because processes come and go: what both times is there must be found."""

    def listed() -> set[int]:
        # Threads of the kernel have no resident memory, and neither have zombies.
        text = subprocess.run(
            ["ps", "-e", "-o", "pid=,rss="], capture_output=True, text=True, check=True
        ).stdout
        rows = [line.split() for line in text.splitlines()]
        return {int(pid) for pid, rss in rows if rss != "0"}

    before, found, after = listed(), set(scan().processes), listed()
    assert before & after - {os.getpid()} <= found
    assert os.getpid() not in found


def test_names_with_anything_in_them(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b\n"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "60"]) as child:
        while (one := scan().processes.get(child.pid)) is None or one.command != program.name:
            pass
        child.kill()
    assert one.resident_pages > 0


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/nginx.service\n", "nginx.service"),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope"),
        ("0::/user.slice/user-1.slice/user@1.service/app.slice/x.service\n", "x.service"),
        (f"0::/system.slice/docker-{'a1' * 32}.scope\n", "a1a1a1a1a1a1"),
        (f"0::/kubepods/besteffort/pod1/{'0f' * 32}\n", "0f0f0f0f0f0f"),
        (f"12:memory:/docker/{'12' * 32}\n0::/\n", "121212121212"),
        ("4:memory:/system.slice/ssh.service\n1:name=systemd:/\n", "ssh.service"),
        ("0::/\n", ""),
        ("0::/some/folder\n", ""),
        ("", ""),
    ],
)
def test_units(text: str, unit: str) -> None:
    assert processes.unit_in(text) == unit


def test_the_unit_of_a_process_that_has_ended() -> None:
    with subprocess.Popen(["true"]) as child:
        pass
    assert unit_of(child.pid) == ""
