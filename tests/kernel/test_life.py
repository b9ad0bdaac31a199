"""The target's life: exec, fork, exit, and its final report."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.reports import Report, Total
from harness.target import Target
from harness.tracer import (
    NEVER,
    ONE_REPORT,
    Tracer,
    run_leaktrace,
    trace_work,
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


def test_target_exits(compiled: Compiler) -> None:
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            target.do("malloc 70 30")
            target.send("exit 3")
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
            target.send("malloc 70 30")
            target.send("exit 0")
            report = quiet_end(tracer)
    assert report.under("scenario_command_malloc") == Total(2100, 70)


def test_an_age_filter_that_was_asked_for_holds_to_the_end(compiled: Compiler) -> None:
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        arguments = ["--format", "json", "-o", "3600000", NEVER]
        with Tracer("-p", str(target.pid), *arguments) as tracer:
            tracer.await_armed()
            target.send("malloc 70 30")
            target.send("exit 0")
            report = quiet_end(tracer)
    assert report.outstanding == Total(2100, 70)
    assert report.younger == Total(2100, 70)
    assert report.sites == ()


def test_target_executes_another_program(compiled: Compiler) -> None:
    """The old image's records are dropped. The new image is traced, with its own names."""
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            target.do("malloc 70 30")
            target.send(f"exec {compiled('after_exec.c')}")
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
            target.send()
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
    thread, are attached again. What is allocated until then is missed, and the report says so."""
    program = compiled("commands.c")
    with Target([program]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, "0.2") as tracer:
            tracer.await_armed()
            target.do("malloc 70 30")
            target.send(f"thread-exec {program}")
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
    """Then the first thread is a zombie, but the process is not."""
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            target.do("malloc 70 30")
            target.do("hand-over")
            target.do("malloc 7 30")
            outcome = tracer.stop()
        target.send("exit 0")
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
        target.send("exit 0")
        assert target.end() == 0
    assert outcome.exit_code == 4
    assert names(outcome.stderr, "first thread", "exited")


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
