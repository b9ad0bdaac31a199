"""Looks at a Go program that executes itself."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.goroutines import go_refills
from harness.lines import DEADLINE_S

from leaktrace.errors import TargetError
from leaktrace.go_report import GoReport
from leaktrace.process import go_looks
from leaktrace.process.go_looks import GoLooks
from leaktrace.runtimes.go.heap import Heap
from leaktrace.runtimes.go.program import GoProgram
from leaktrace.targets.process import Process

__all__ = ["go_refills"]
MANY = 1000


@pytest.fixture
def program(go_refills: Callable[[str], Path]) -> Iterator[subprocess.Popen[str]]:
    command = [str(go_refills("debian")), "idle", "/dev/null"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline()
        yield process
        process.kill()


def executed(program: subprocess.Popen[str]) -> None:
    """Let it execute itself, and wait until it has begun."""
    program.send_signal(signal.SIGHUP)
    assert program.stdout is not None and program.stdout.readline()


def built(looks: GoLooks) -> GoReport:
    return looks.reports.build(number=1, command="", reason="", notes=looks.notes)


def test_it_ends_before_it_is_looked_at_again(
    program: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was seen of it before is still there to be shown."""
    looks = GoLooks(Process(program.pid), MANY)
    looks.look()
    before = built(looks)
    executed(program)

    def end_first(of: GoProgram) -> Heap:
        os.kill(of.pid, signal.SIGKILL)
        program.wait(DEADLINE_S)
        return Heap(of)

    monkeypatch.setattr(go_looks, "Heap", end_first)
    looked_s = looks.look_s
    with pytest.raises(TargetError, match="has ended"):
        looks.look()
    after = built(looks)
    assert (after.goroutines, after.heap, after.notes) == (before.goroutines, before.heap, ())
    assert before.goroutines.alive_count > 0
    assert looks.look_s == looked_s


def test_time_goes_on_when_it_executes_itself(program: subprocess.Popen[str]) -> None:
    began_s = time.monotonic()
    looks = GoLooks(Process(program.pid), MANY)
    looks.look()
    first_s = time.monotonic()
    notes = []
    for _ in range(3):
        executed(program)
        looked_s = time.monotonic()
        looks.look()
        assert looked_s - first_s <= built(looks).elapsed_s <= time.monotonic() - began_s
        notes.append([note for note in looks.notes if "executed another program" in note])
        looks.look()
        assert looks.notes[0] == notes[-1][0]
    # So that reports of different programs can be told apart.
    assert [len(one) for one in notes] == [1, 1, 1]
    assert len({note for one in notes for note in one}) == 3
