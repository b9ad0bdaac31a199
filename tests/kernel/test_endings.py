"""How the process ended: its final report gives the status that wait(2) gives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.compiling import Compiler
from harness.lines import DEADLINE_S
from harness.processes import await_stopped
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Outcome, Tracer, run_leaktrace
from harness.wording import lines_naming, names

pytestmark = pytest.mark.usefixtures("require_bpf")


def kill(number: int) -> Callable[[Target], None]:
    return lambda target: os.kill(target.pid, number)


def sending(*lines: str) -> Callable[[Target], None]:
    def end(target: Target) -> None:
        for line in lines[:-1]:
            target.do(line)
        target.send(lines[-1])

    return end


def kill_when_the_first_thread_is_gone(target: Target) -> None:
    """Its first thread has exited with 0 then, which is not how the process ends."""
    target.do("hand-over")
    kill(signal.SIGTERM)(target)


WAYS = {
    "on its own": sending("exit 0"),
    "with a status": sending("exit 3"),
    "with the largest status": sending("exit 255"),
    "by a thread that is not the first": sending("hand-over", "exit 41"),
    "killed": kill(signal.SIGKILL),
    "aborted": kill(signal.SIGABRT),
    "killed by a real-time signal": kill(signal.SIGRTMIN + 3),
    "killed after its first thread has exited": kill_when_the_first_thread_is_gone,
}


def as_seen_by_the_parent(status: int) -> dict[str, int | bool | None]:
    """What the report must say about a status as subprocess returns it."""
    return {
        "status": status if status >= 0 else None,
        "signal": -status if status < 0 else None,
        "oom_killed": False,
    }


def trace_to_the_end(
    program: Path, end: Callable[[Target], None], *options: str, env: dict[str, str] | None = None
) -> tuple[Outcome, int, int]:
    """The run, the target's pid, and its status as its parent got it. By the time leaktrace looks,
    the target has been reaped: only what was noted while it was traced is known."""
    with Target([program]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *options, NEVER, env=env) as tracer:
            tracer.await_armed()
            os.kill(tracer.pid, signal.SIGSTOP)
            await_stopped(tracer.pid)
            end(target)
            status = target.process.wait(DEADLINE_S)
            os.kill(tracer.pid, signal.SIGCONT)
            outcome = tracer.finish()
    assert outcome.exit_code == 0, outcome.stderr
    return outcome, target.pid, status


def last_ending(outcome: Outcome) -> Any:
    report = outcome.reports[-1]
    assert report.final
    return report.raw["ending"]


@pytest.mark.parametrize("way", WAYS)
def test_a_running_process(way: str, compiled: Compiler) -> None:
    outcome, _, status = trace_to_the_end(compiled("commands.c"), WAYS[way], *ONE_REPORT)
    assert last_ending(outcome) == as_seen_by_the_parent(status)
    assert outcome.reports[-1].raw["reason"] == "the target has ended"


def test_page_faults_of_a_running_process(compiled: Compiler) -> None:
    program, end = compiled("commands.c"), WAYS["with a status"]
    outcome, _, status = trace_to_the_end(program, end, "--format", "json", "--faults")
    assert last_ending(outcome) == as_seen_by_the_parent(status)


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("with a status", ("status", 3)),
        ("killed", ("killed", 9, "SIGKILL")),
        ("killed by a real-time signal", ("killed", int(signal.SIGRTMIN) + 3)),
    ],
)
def test_in_words(way: str, words: tuple[object, ...], compiled: Compiler) -> None:
    outcome, pid, _ = trace_to_the_end(compiled("commands.c"), WAYS[way])
    assert len(lines_naming(outcome.stdout, "final report", pid, *words)) == 1


def test_memleaks_format_says_it_elsewhere(compiled: Compiler) -> None:
    way = WAYS["with a status"]
    outcome, pid, _ = trace_to_the_end(compiled("commands.c"), way, "--format", "memleak")
    assert len(lines_naming(outcome.stderr, pid, "ended", "status", 3)) == 1
    assert not names(outcome.stdout, "ended")
    assert not names(outcome.stdout, "status")


def test_a_kernel_without_the_exit_status(compiled: Compiler) -> None:
    """Without BTF the status can't be found: the report gives none."""
    way, env = WAYS["with a status"], {"LEAKTRACE_WITHOUT": "exit_status"}
    outcome, pid, status = trace_to_the_end(compiled("commands.c"), way, env=env)
    assert status == 3
    (last,) = lines_naming(outcome.stdout, "final report", pid)
    assert not names(last, "status")
    assert not names(last, "killed")
    outcome, _, _ = trace_to_the_end(compiled("commands.c"), way, *ONE_REPORT, env=env)
    assert last_ending(outcome) == {"status": None, "signal": None, "oom_killed": False}


@pytest.mark.parametrize("code", ["exit 0", "exit 7", "kill -KILL $$", "kill -SEGV $$"])
def test_a_command(code: str) -> None:
    words = ["sh", "-c", code]
    untraced = subprocess.run(words, check=False).returncode
    outcome = run_leaktrace(*ONE_REPORT, NEVER, "--", *words)
    assert outcome.exit_code == 0, outcome.stderr
    assert last_ending(outcome) == as_seen_by_the_parent(untraced)


def test_while_it_lives(compiled: Compiler) -> None:
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            target.do("hand-over")  # a thread's end is not the process's
            outcome = tracer.stop()
        target.send("exit 0")
        assert target.end() == 0
    assert last_ending(outcome) is None


def test_a_command_that_leaktrace_ends() -> None:
    with Tracer(*ONE_REPORT, NEVER, "--", "sleep", "3600") as tracer:
        tracer.await_armed()
        outcome = tracer.stop()
    assert last_ending(outcome) is None
    assert outcome.reports[-1].raw["reason"] == "interrupted (SIGINT)"
