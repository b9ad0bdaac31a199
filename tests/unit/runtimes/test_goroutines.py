"""Goroutines as leaktrace reads them, against the account of the program itself: each goroutine of
runtime.Stack."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from harness.goroutines import BUILDS, await_file, running

from leaktrace.go_report import GoLine, Skip
from leaktrace.runtimes.go.goroutines import Goroutines
from leaktrace.runtimes.go.program import GoProgram, open_go_program

KINDS = {  # by the function that a goroutine began with, or that it is in
    "main.receives": 2,  # two ways into it
    "main.sends": 1,
    "main.receivesFromNil": 1,
    "main.selects": 1,
    "main.locks": 1,
    "main.waits": 1,
    "main.ticks": 1,
    "main.reads": 1,
}
EACH = 1000


class Told(NamedTuple):
    """A goroutine as runtime.Stack prints it. Frames are function and line."""

    state: str
    frames: list[tuple[str, str]]
    created_by: tuple[str, str] | None


def told_by(text: str) -> dict[int, Told]:
    found = {}
    for block in text.split("\n\n"):
        lines = block.strip("\n").split("\n")
        head = re.match(r"goroutine (\d+) (?:gp=\S+ m=\S+ (?:mp=\S+ )?)?\[([^\],]*)", lines[0])
        if head is None:
            continue
        frames: list[tuple[str, str]] = []
        created = None
        for call, place in zip(lines[1::2], lines[2::2], strict=False):
            at = re.search(r"/([^/]+:\d+)", place)
            assert at is not None, block
            name = re.sub(r" in goroutine \d+$", "", call.removeprefix("created by "))
            if call.startswith("created by "):
                created = name, at[1]
            else:
                frames.append((name[: name.rindex("(")], at[1]))
        found[int(head[1])] = Told(head[2], frames, created)
    return found


def place(line: GoLine) -> tuple[str, str]:
    return line.function, f"{Path(line.file).name}:{line.line}"


def frames_of(program: GoProgram, stack: tuple[int, ...]) -> list[tuple[str, str]]:
    return [place(line) for address in stack for line in program.lines(address)]


def is_own_frame(name: str) -> bool:
    """Whether the runtime shows it in a stack."""
    is_runtime = name.startswith(("runtime.", "internal/runtime"))
    return not is_runtime and not re.search(r"\.gowrap\d+$", name)


@pytest.mark.parametrize("kind", BUILDS)
def test_every_goroutine_is_as_the_program_says(
    kind: str, go_program: Callable[[str], Path], tmp_path: Path
) -> None:
    truth = tmp_path / "truth"
    with running(go_program(kind), "stuck", str(EACH), str(truth)) as (pid, count):
        program = open_go_program(pid)
        look = Goroutines(program).look()
        os.kill(pid, signal.SIGUSR1)
        told = told_by(await_file(truth))
    assert look.alive_count - look.system_count == count == len(told)
    compared = Counter[str]()
    for key, group in look.groups.items():
        ours = frames_of(program, key.stack)
        creator = place(program.lines(key.created_at)[0])
        for goid in group.ids:
            state, frames, created_by = told[goid]
            if state == "running" or "signal_recv" in str(frames):  # it has written the account
                continue
            if "main.main" in str(frames):
                continue  # it was woken for it
            assert key.state == state
            own = [one for one in ours if is_own_frame(one[0])]
            if created_by and own[-1] not in frames and own[-1][1] == created_by[1]:
                own.pop()  # what Go before 1.22 makes of `go f(x)`: the runtime doesn't show it
            assert own == [one for one in frames if is_own_frame(one[0])]
            assert creator == created_by
            compared.update(name for name in KINDS if any(name == one[0] for one in ours))
            compared["syscall"] += state == "syscall"
            compared["deep"] += sum(one[0] == "main.descends" for one in ours)
    assert {name: compared[name] for name in KINDS} == {
        name: times * EACH for name, times in KINDS.items()
    }
    assert compared["syscall"] == 10
    assert compared["deep"] == 5 * 21 + 5 * 22
    assert look.groups and not look.skipped.get(Skip.UNREADABLE)


@pytest.mark.parametrize("kind", BUILDS)
def test_versions_and_addresses(kind: str, go_program: Callable[[str], Path]) -> None:
    """A file that was removed, and one that was overwritten, is read as it is mapped."""
    with running(go_program(kind), "many", "100") as (pid, count):
        program = open_go_program(pid)
        assert program.is_known_version
        assert re.fullmatch(r"go1\.\d+(\.\d+)?", program.version.text)
        start = program.function_start("main.receives")
        assert start is not None
        assert program.text.start < start < program.text.end
        assert [line.function for line in program.lines(start + 1)] == ["main.receives"]
        assert Goroutines(program).look().alive_count >= count


def test_the_file_on_disk_may_be_another_one(
    go_program: Callable[[str], Path], tmp_path: Path
) -> None:
    copy = tmp_path / "program"
    copy.write_bytes(go_program("debian").read_bytes())
    copy.chmod(0o755)
    with running(copy, "many", "100") as (pid, count):
        copy.unlink()
        copy.write_bytes(b"something else")
        look = Goroutines(open_go_program(pid)).look()
        assert look.alive_count - look.system_count == count
