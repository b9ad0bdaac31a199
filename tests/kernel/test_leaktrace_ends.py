"""The end of leaktrace: its final report, cleanup, and the end of its command."""

from __future__ import annotations

import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import kernel_objects
from harness.compiling import Compiler
from harness.lines import DEADLINE_S
from harness.reports import Report, Total
from harness.target import Target
from harness.tracer import (
    COMMAND,
    NEVER,
    ONE_REPORT,
    Tracer,
    tracer_environment,
)
from harness.wording import names

pytestmark = pytest.mark.usefixtures("require_bpf")


def test_under_nohup_a_hangup_changes_nothing(
    compiled: Compiler, require_tool: Callable[[str], str]
) -> None:
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        arguments = ["-p", str(target.pid), *ONE_REPORT, "0.2"]
        with Tracer(*arguments, prefix=[require_tool("nohup")]) as tracer:
            tracer.await_armed()
            tracer.process.send_signal(signal.SIGHUP)
            target.do("malloc 70 30")
            while tracer.next_report().outstanding != Total(2100, 70):
                pass
            outcome = tracer.stop()
        assert target.end() == 0
    assert outcome.exit_code == 0, outcome.stderr
    assert [report.final for report in outcome.reports].count(True) == 1
    assert names(outcome.reports[-1].raw["reason"], "SIGINT")


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_with_a_last_report(by: signal.Signals, compiled: Compiler) -> None:
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            target.do("malloc 70 30")
            outcome = tracer.stop(by)
        target.do("calls 1000")
        assert target.end() == 0
    assert outcome.exit_code == 0, outcome.stderr
    assert "Traceback" not in outcome.stderr
    (report,) = outcome.reports
    assert report.final
    assert report.outstanding == Total(2100, 70)


def test_nothing_is_left_in_the_kernel(compiled: Compiler) -> None:
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            objects = kernel_objects.held_by(tracer.pid)
            assert objects
            assert kernel_objects.still_there(objects) == objects
            tracer.stop()
        kernel_objects.await_gone(objects)


def test_kill_leaves_nothing_in_the_kernel_and_the_target_runs_on(compiled: Compiler) -> None:
    """kill -9: the kernel closes the descriptors, which removes the probes. If one were left, its
    program would still be loaded."""
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            objects = kernel_objects.held_by(tracer.pid)
            assert objects
            target.do("malloc 70 30")
            tracer.process.kill()
            tracer.process.wait(DEADLINE_S)
        kernel_objects.await_gone(objects)
        target.do("malloc 70 30")
        target.do("free")
        target.do("calls 10000")
        assert target.end() == 0


def test_a_second_run_on_the_same_target(compiled: Compiler) -> None:
    """A later run sees what was allocated since, and is not disturbed by the first."""
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        totals = []
        for _ in range(2):
            with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
                tracer.await_armed()
                target.do("malloc 70 30")
                (report,) = tracer.stop().reports
                totals.append(report.outstanding)
                assert report.losses == {}
        assert target.end() == 0
    assert totals == [Total(2100, 70), Total(2100, 70)]


def test_two_tracers_at_once(compiled: Compiler) -> None:
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        arguments = ("-p", str(target.pid), *ONE_REPORT, NEVER)
        with Tracer(*arguments) as first, Tracer(*arguments) as second:
            first.await_armed()
            second.await_armed()
            target.do("malloc 70 30")
            outcomes = [first.stop(), second.stop()]
        assert target.end() == 0
    for outcome in outcomes:
        (report,) = outcome.reports
        assert report.outstanding == Total(2100, 70)


def test_a_closed_pipe_ends_quietly(compiled: Compiler) -> None:
    """As `leaktrace … | head -1`."""
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        pipeline = subprocess.run(
            f"{shlex.join(COMMAND)} -p {target.pid} --format json 0.2 | head -n 1",
            shell=True,
            env=tracer_environment(),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=True,
        )
        target.do("calls 1000")
        assert target.end() == 0
    assert len(pipeline.stdout.splitlines()) == 1
    Report(pipeline.stdout)
    assert "Traceback" not in pipeline.stderr
    assert "Broken pipe" not in pipeline.stderr
    assert "Exception" not in pipeline.stderr


def catches_interrupts(pid: int) -> bool:
    """Whether it has a handler for SIGINT (SigCgt, proc(5))."""
    status = Path(f"/proc/{pid}/status").read_text()
    (caught,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(int(caught, 16) >> (signal.SIGINT - 1) & 1)


def await_catching(pid: int, wanted: bool) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while catches_interrupts(pid) != wanted:
        assert time.monotonic() < deadline, "the moment was missed, or SIGINT is ignored here"


def test_an_interrupt_at_the_start_just_ends_it(compiled: Compiler) -> None:
    """While it imports what it needs, Python's own handler would print a traceback."""
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), NEVER) as tracer:
            await_catching(tracer.pid, True)  # Python's
            await_catching(tracer.pid, False)
            outcome = tracer.stop()
        assert target.end() == 0
    assert outcome.exit_code == -signal.SIGINT
    assert (outcome.stdout, outcome.stderr) == ("", "")


def test_an_interrupt_before_tracing_is_reported(compiled: Compiler) -> None:
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), NEVER) as tracer:
            tracer.stderr.until(lambda line: "attaching to pid" in line)
            outcome = tracer.stop()
        assert target.end() == 0
    assert outcome.exit_code in {0, 130}  # it may have begun just before
    if outcome.exit_code:
        assert names(outcome.stderr, "SIGINT", "before")
    assert bool(outcome.stdout) == (outcome.exit_code == 0)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_command_is_ended_with_leaktrace(
    by: signal.Signals, compiled: Compiler, tmp_path: Path
) -> None:
    """leaktrace ends first: it sends SIGTERM to the command that it started."""
    output = tmp_path / "reports"
    program = compiled("commands.c")
    arguments = [*ONE_REPORT, "--output", str(output), "-c", str(program), NEVER]
    with Tracer(*arguments) as tracer:
        tracer.await_armed()
        tracer.stdout.until(lambda line: line == "ready")
        (child,) = [
            int(word) for word in Path(f"/proc/{tracer.pid}/task/{tracer.pid}/children")
            .read_text().split()
            if Path(f"/proc/{word}/exe").readlink() == program
        ]  # fmt: skip
        outcome = tracer.stop(by)
    assert outcome.exit_code == 0, outcome.stderr
    assert not Path(f"/proc/{child}").exists()
    (line,) = output.read_text().splitlines()
    assert Report(line).final


def test_leaktrace_killed_during_a_command_leaves_nothing_in_the_kernel(
    compiled: Compiler, tmp_path: Path
) -> None:
    """The command runs on with its input closed, and ends on its own."""
    program = compiled("commands.c")
    with Tracer(*ONE_REPORT, "--output", str(tmp_path / "r"), "-c", str(program), NEVER) as tracer:
        tracer.await_armed()
        tracer.stdout.until(lambda line: line == "ready")
        objects = kernel_objects.held_by(tracer.pid)
        tracer.process.kill()
        tracer.process.wait(DEADLINE_S)
        assert tracer.process.stdin is not None
        tracer.process.stdin.write(b"calls 1000\n")
        tracer.process.stdin.close()
        tracer.stdout.until(lambda line: line == "done")
        assert tracer.stdout.rest() == []
    kernel_objects.await_gone(objects)
