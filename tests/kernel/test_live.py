"""The live view on a terminal, with a real process: keys, and the ways in which it ends."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.target import Target
from harness.terminal import InTerminal
from harness.tracer import run_leaktrace

pytestmark = pytest.mark.usefixtures("require_bpf")

# With job control, as in the shells of users.
UNDER_A_SHELL = ("bash", "-mc", '"$@"; echo it has stopped; read line; fg >&2; exit $?', "bash")
LEAVE = "\x1b[?1049l"


def test_keys_and_the_end(compiled: Compiler, tmp_path: Path) -> None:
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        recording = tmp_path.with_suffix(".rec")
        options = ("top", "-p", str(target.pid), "-o", "0", "--record", str(recording), "3600")
        with InTerminal(*options, folder=tmp_path, prefix=UNDER_A_SHELL) as terminal:
            before = terminal.modes()
            terminal.until("tracing pid")
            target.do("malloc 70 30")
            terminal.press(b"r")  # a report now, an hour before its time
            terminal.until("2.1 KiB in 70 allocations")
            terminal.press(b"\r")
            terminal.until("main+0x")
            terminal.press(b"W")
            terminal.until("saved report 1")
            # Ctrl-Z, and on again.
            terminal.press(b"\x1a")
            terminal.until("it has stopped")
            assert terminal.modes() == before
            terminal.shown = ""
            terminal.press(b"\n")
            terminal.until("70 allocations")
            assert terminal.modes() != before
            terminal.press(b"m")
            terminal.until("marked as mark 1: report 2")
            terminal.press(b"q")
            assert terminal.finish() == 0, terminal.shown
        _, _, plain = terminal.shown.rpartition(LEAVE)
        assert "final report: ended by the user" in plain
        assert "outstanding 2.1 KiB in 70 allocations" in plain
        assert target.end() == 0
    (saved,) = tmp_path.iterdir()
    assert json.loads(saved.read_text())["outstanding"] == {"bytes": 2100, "count": 70}
    marked = run_leaktrace("show", recording, "--at", "mark 1", "-f", "json")
    assert json.loads(marked.stdout)["number"] == 2, marked.stderr


END = {
    "Ctrl-C": lambda terminal, target: terminal.press(b"\x03"),
    "SIGTERM": lambda terminal, target: os.kill(terminal.pid, signal.SIGTERM),
    "SIGHUP": lambda terminal, target: os.kill(terminal.pid, signal.SIGHUP),
    "the target is killed": lambda terminal, target: target.process.kill(),
}


@pytest.mark.parametrize("by", list(END))
def test_the_terminal_is_given_back(by: str, compiled: Compiler) -> None:
    end: Callable[[InTerminal, Target], object] = END[by]
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        with InTerminal("top", "-p", str(target.pid), "3600") as terminal:
            before = terminal.modes()
            terminal.until("tracing pid")
            assert terminal.modes() != before
            end(terminal, target)
            terminal.until("final report")
            assert terminal.modes() == before
            assert terminal.finish() == 0, terminal.shown
        assert terminal.shown.count(LEAVE) == 1
        assert "Traceback" not in terminal.shown


def test_without_a_terminal_there_are_plain_reports(compiled: Compiler) -> None:
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        outcome = run_leaktrace("--live", "-p", str(target.pid), "0.1", "1")
        assert target.end() == 0
    assert outcome.exit_code == 0
    assert "plain reports follow" in outcome.stderr
    assert outcome.stdout.startswith("leaktrace  commands")


@pytest.mark.parametrize("words", [("-f", "json"), ("--output", "x"), ("-t",)])
def test_what_has_no_place_in_it(words: tuple[str, ...]) -> None:
    outcome = run_leaktrace("top", "-p", "1", *words)
    assert outcome.exit_code == 2
    assert words[0] in outcome.stderr
