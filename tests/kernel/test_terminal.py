"""A command that is traced in a terminal: keys reach it as they do without leaktrace."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from harness.terminal import InTerminal
from harness.tracer import NEVER, ONE_REPORT

pytestmark = pytest.mark.usefixtures("require_bpf")

CTRL_C = b"\x03"
# It takes a while to end, and says how.
TIDY = "trap 'echo tidying; sleep 1; echo tidy; exit 5' INT; echo up; while :; do sleep 0.05; done"


def last_report(reports: Path) -> Any:
    return json.loads(reports.read_text().splitlines()[-1])


def test_a_command_that_takes_its_time_to_end_is_traced_until_then(tmp_path: Path) -> None:
    """Without leaktrace, only the command would get Ctrl-C, once."""
    reports = tmp_path / "reports"
    options = (*ONE_REPORT, "--no-follow", "--exit-code", "child", "--output", reports, NEVER)
    with InTerminal(*options, "--", "sh", "-c", TIDY) as terminal:
        terminal.until("up")
        terminal.press(CTRL_C)
        assert terminal.finish() == 5, terminal.shown
    assert "tidy\r" in terminal.shown
    assert terminal.shown.count("tidying") == 1
    report = last_report(reports)
    assert report["reason"] == "the target has ended"
    assert report["ending"] == {"status": 5, "signal": None, "oom_killed": False}


def test_a_second_ctrl_c_ends_the_run(tmp_path: Path) -> None:
    reports = tmp_path / "reports"
    options = (*ONE_REPORT, "--output", reports, NEVER)
    with InTerminal(*options, "--", sys.executable, "-c", STUBBORN_PYTHON) as terminal:
        terminal.until("up")
        terminal.press(CTRL_C)
        terminal.until("not now")
        terminal.until("press Ctrl-C again")
        terminal.press(CTRL_C)
        assert terminal.finish() == 0, terminal.shown
    assert "Traceback" not in terminal.shown
    report = last_report(reports)
    assert report["final"]
    assert report["reason"] == "interrupted (SIGINT)"


STUBBORN_PYTHON = """
import signal, time
signal.signal(signal.SIGINT, lambda *_: print("not now", flush=True))
print("up", flush=True)
while True:
    time.sleep(0.05)
"""


def test_a_signal_from_another_process_ends_the_run(tmp_path: Path) -> None:
    """The command doesn't get it."""
    reports = tmp_path / "reports"
    options = (*ONE_REPORT, "--output", reports, NEVER)
    with InTerminal(*options, "--", "sh", "-c", "echo up; exec sleep 3600") as terminal:
        terminal.until("up")
        os.kill(terminal.pid, signal.SIGINT)
        assert terminal.finish() == 0, terminal.shown
    assert last_report(reports)["reason"] == "interrupted (SIGINT)"


def test_a_command_in_a_process_group_of_its_own(tmp_path: Path) -> None:
    """Ctrl-C doesn't reach it: timeout(1) makes that group."""
    reports = tmp_path / "reports"
    options = (*ONE_REPORT, "--output", reports, NEVER)
    words = ("timeout", "3600", "sh", "-c", "echo up; exec sleep 3600")
    with InTerminal(*options, "--", *words) as terminal:
        terminal.until("up")
        terminal.press(CTRL_C)
        assert terminal.finish() == 0, terminal.shown
    assert last_report(reports)["reason"] == "interrupted (SIGINT)"


def test_it_stops_and_continues_with_its_command(tmp_path: Path) -> None:
    """As by Ctrl-Z, and the fg of a shell."""
    options = (*ONE_REPORT, "--output", tmp_path / "reports", NEVER)
    with InTerminal(*options, "--", "sh", "-c", TIDY) as terminal:
        terminal.until("up")
        group = os.getpgid(terminal.pid)
        assert group == terminal.pid
        members = [
            int(stat.parent.name)
            for stat in Path("/proc").glob("[0-9]*/stat")
            if stat.read_text().rpartition(")")[2].split()[2] == str(group)
        ]
        assert len(members) >= 2  # leaktrace and the shell
        os.killpg(group, signal.SIGSTOP)
        time.sleep(0.2)
        os.killpg(group, signal.SIGCONT)
        terminal.press(CTRL_C)
        assert terminal.finish() == 0, terminal.shown
    assert "tidy\r" in terminal.shown
