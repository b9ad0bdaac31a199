"""Life and death of either side: what is reported last, what is left behind, who is harmed."""

from __future__ import annotations

import os
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
    run_leaktrace,
    trace_work,
    tracer_environment,
)
from harness.wording import names, the_note

pytestmark = pytest.mark.usefixtures("require_bpf")


def quiet_end(tracer: Tracer) -> Report:
    """The one report of a run that ends well."""
    outcome = tracer.finish()
    assert outcome.exit_code == 0, outcome.stderr
    assert "Traceback" not in outcome.stderr
    (report,) = outcome.reports
    assert report.final
    return report


# --- the target ends ---------------------------------------------------------------------------


def test_target_exits(compiled: Compiler) -> None:
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            target.do("malloc 70 30")
            target.tell("exit 3")
            report = quiet_end(tracer)
        assert target.end() == 3
    assert report.outstanding == Total(2100, 70)
    assert report.under("scenario_command_malloc") == Total(2100, 70)
    assert report.raw["reason"] == "the target has ended"


def test_target_is_killed(compiled: Compiler) -> None:
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            target.do("malloc 70 30")
            os.kill(target.pid, signal.SIGKILL)
            report = quiet_end(tracer)
        assert target.end() == -signal.SIGKILL
    assert report.under("scenario_command_malloc") == Total(2100, 70)


def test_young_allocations_are_shown_when_the_target_has_exited(compiled: Compiler) -> None:
    """Without -o the age filter (500 ms) doesn't hold for what an exited target left."""
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), "--format", "json", NEVER) as tracer:
            tracer.await_armed()
            target.tell("malloc 70 30")
            target.tell("exit 0")
            report = quiet_end(tracer)
    assert report.under("scenario_command_malloc") == Total(2100, 70)


def test_an_age_filter_that_was_asked_for_holds_to_the_end(compiled: Compiler) -> None:
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        arguments = ["--format", "json", "-o", "3600000", NEVER]
        with Tracer("-p", str(target.pid), *arguments) as tracer:
            tracer.await_armed()
            target.tell("malloc 70 30")
            target.tell("exit 0")
            report = quiet_end(tracer)
    assert report.outstanding == Total(2100, 70)
    assert report.younger == Total(2100, 70)
    assert report.sites == ()


def test_target_executes_another_program(compiled: Compiler) -> None:
    """The old image's records go with it; the new one is traced, under its own names."""
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            target.do("malloc 70 30")
            target.tell(f"exec {compiled('after_exec.c')}")
            target.await_ready()
            target.do()
            outcome = tracer.stop()
        assert target.end() == 0
    assert outcome.exit_code == 0, outcome.stderr
    (report,) = outcome.reports
    assert report.under("scenario_command_malloc") == Total()
    assert report.under("scenario_after_exec") == Total(360, 6)
    assert report.outstanding == Total(360, 6)
    the_note(report, "executed", "after_exec")


def test_a_process_that_executes_itself_again_and_again(compiled: Compiler) -> None:
    """While it executes a program a process has no mappings, and no memory. It has not ended."""
    with Target([compiled("exec_storm.c"), "1000", "wait"]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, "0.01") as tracer:
            tracer.await_armed()
            target.tell()
            target.await_ready()
            while not tracer.next_report().raw["target"]["notes"]:
                pass
            target.do()
            outcome = tracer.stop()
        assert target.end() == 0
    assert outcome.exit_code == 0, outcome.stderr
    report = outcome.reports[-1]
    assert report.under("scenario_after_storm") == Total(6 * 60, 6)
    for note in report.raw["target"]["notes"]:
        assert names(note, "executed", "exec_storm")


def test_children_are_not_the_target(compiled: Compiler) -> None:
    """A forked child frees what it inherited and allocates: its memory is not the parent's."""
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            target.do("malloc 70 30")
            target.do("fork")
            target.do("malloc 1 5")
            outcome = tracer.stop()
        assert target.end() == 0
    (report,) = outcome.reports
    assert report.outstanding == Total(2105, 71)
    assert report.losses == {}


def test_programs_started_by_the_target(compiled: Compiler) -> None:
    """vfork and posix_spawn: children that share the target's memory until they become another
    program, which allocates too."""
    report = trace_work([compiled("spawn.c"), compiled("exit_at_once.c")]).report
    assert report.under("scenario_spawn") == Total(3 * 180, 3)
    assert report.under("scenario_vfork") == Total(3 * 190, 3)
    assert report.losses == {}
    assert report.under("scenario_leak") == Total()


def test_a_thread_that_is_not_the_first_executes_another_program(compiled: Compiler) -> None:
    """The thread takes the process's id over; the probes, which the kernel had bound to the first
    thread, are put on anew. What is allocated until then is missed, and the report says so."""
    program = compiled("commands.c")
    with Target([program]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, "0.2") as tracer:
            tracer.await_armed()
            target.do("malloc 70 30")
            target.tell(f"thread-exec {program}")
            target.await_ready()
            while (seen := tracer.next_report().under("scenario_command_malloc")) in (
                Total(),
                Total(2100, 70),
            ):
                target.do("malloc 1 5")
            target.do("malloc 70 30")
            outcome = tracer.stop()
        assert target.end() == 0
    report = outcome.reports[-1]
    found = report.under("scenario_command_malloc")
    assert found.count - 70 >= seen.count
    assert found.bytes - 2100 == 5 * (found.count - 70)
    assert report.outstanding == found
    the_note(report, "thread", "executed")


def test_the_first_thread_exits_and_the_process_goes_on(compiled: Compiler) -> None:
    """The first thread is a zombie then, and the process is none."""
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            target.do("malloc 70 30")
            target.do("hand-over")
            target.do("malloc 7 30")
            outcome = tracer.stop()
        target.tell("exit 0")
        assert target.end() == 0
    assert outcome.exit_code == 0, outcome.stderr
    (report,) = outcome.reports
    assert report.raw["reason"] == "interrupted (SIGINT)"
    assert report.under("scenario_command_malloc") == Total(2310, 77)
    (note,) = report.raw["target"]["notes"]
    assert names(note, "first thread", "exited")


def test_a_process_whose_first_thread_has_exited_is_not_called_ended(compiled: Compiler) -> None:
    """Linux shows no mappings of such a process: it is refused, with the reason."""
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        target.do("hand-over")
        outcome = run_leaktrace("-p", str(target.pid), "1", "1")
        target.tell("exit 0")
        assert target.end() == 0
    assert outcome.exit_code == 4
    assert names(outcome.stderr, "first thread", "exited")


# --- leaktrace ends ----------------------------------------------------------------------------


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
    """kill -9: the kernel closes the descriptors, and with them the probes go. Had one stayed,
    its program would still be there."""
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
    """A later run sees what was allocated since, and is not disturbed by what the first left."""
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


# --- a command that leaktrace starts -----------------------------------------------------------


def test_a_command_that_exits_at_once_is_traced_from_its_first_instruction(
    compiled: Compiler, tmp_path: Path
) -> None:
    program = compiled("exit_at_once.c")
    with Tracer(*ONE_REPORT, "-c", str(program), NEVER) as tracer:
        report = quiet_end(tracer)
    assert report.outstanding == Total(10 * 16 + 1000 * 128, 1010)
    assert report.under("scenario_leak") == Total(128_000, 1000)
    assert report.under("early") == Total(160, 10)
    assert report.losses == {}


def test_a_command_is_hooked_once(compiled: Compiler) -> None:
    """The objects planned before it is executed are those that it has mapped afterwards."""
    with Tracer(*ONE_REPORT, "-c", str(compiled("exit_at_once.c")), NEVER) as tracer:
        report = quiet_end(tracer)
    allocators = report.raw["target"]["allocators"]
    assert len(allocators) == len(set(allocators)) == 1


def test_a_command_after_two_dashes_keeps_its_words(compiled: Compiler, tmp_path: Path) -> None:
    spaced = tmp_path / "a name with spaces"
    spaced.write_bytes(compiled("exit_at_once.c").read_bytes())
    spaced.chmod(0o755)
    with Tracer(*ONE_REPORT, NEVER, "--", str(spaced), "5") as tracer:
        report = quiet_end(tracer)
    assert report.under("scenario_leak") == Total(128_000, 1000)


def test_the_commands_exit_code_is_passed_on_when_asked(compiled: Compiler) -> None:
    program = compiled("exit_at_once.c")
    with Tracer(*ONE_REPORT, "--exit-code", "child", "-c", f"{program} 5", NEVER) as tracer:
        assert tracer.finish().exit_code == 5
    with Tracer(*ONE_REPORT, "-c", f"{program} 5", NEVER) as tracer:
        assert tracer.finish().exit_code == 0


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


def test_an_interrupt_before_tracing_is_told(compiled: Compiler) -> None:
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
    """The command runs on with its input closed, and ends by itself."""
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
