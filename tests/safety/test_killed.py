"""However and whenever leaktrace ends, the traced process is unchanged.

kill -9 is aimed at the moments when probes are attached and detached, because then the kernel may
leave breakpoints in the process. As many kills come at random moments. With LEAKTRACE_LENGTH=long
there are 1,000 in all; LEAKTRACE_SAFETY_KILLS sets another number of each kind.
"""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.changed_text import Changed, Watch, changed_bytes
from harness.compiling import Compiler
from harness.length import IS_LONG
from harness.lines import DEADLINE_S
from harness.marked import Mark
from harness.reports import Report, Total
from harness.target import Target
from harness.tracer import COMMAND, NEVER, ONE_REPORT, Tracer, run_leaktrace, tracer_environment
from harness.wording import names

pytestmark = [
    pytest.mark.usefixtures("require_bpf"),
    pytest.mark.alone("another tracer that ends would remove what a killed one left"),
]

KILLS = int(os.environ.get("LEAKTRACE_SAFETY_KILLS", "500" if IS_LONG else "6"))
WAYS = {"links": "", "events": "uprobe_multi"}


def state_of(pid: int) -> str:
    """R, S, T… (proc(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def is_unharmed(target: Target) -> None:
    """It runs, is not stopped, and its code is that of its files."""
    (before,) = target.do()
    deadline = time.monotonic() + DEADLINE_S
    while target.do() == (before,):
        assert time.monotonic() < deadline, "it does nothing any more"
    assert state_of(target.pid) != "T"
    assert changed_bytes(target.pid) == []


@pytest.fixture
def churner(compiled: Compiler) -> Iterator[Target]:
    """A process that allocates and frees all the time."""
    with Target([compiled("churner.c")]) as target:
        yield target.await_ready()


# --- kill -9 of leaktrace ----------------------------------------------------------------------


@dataclass(frozen=True)
class Phases:
    """The phases of an undisturbed run, and how long they take."""

    bytes: list[Changed]
    attaching_s: float
    detaching_s: float


def undisturbed(target: Target, env: dict[str, str]) -> Phases:
    arguments = ("-p", str(target.pid), NEVER)
    with Tracer(*arguments, env=env) as tracer:
        tracer.await_armed()
        probed = changed_bytes(target.pid)
        tracer.stop()
    assert probed
    with Watch.of(target.pid, probed) as watch, Tracer(*arguments, env=env) as tracer:
        watch.await_any()
        times = [time.perf_counter()]
        watch.await_all()
        times.append(time.perf_counter())
        tracer.await_armed()
        tracer.process.send_signal(signal.SIGINT)
        watch.await_fewer()
        times.append(time.perf_counter())
        watch.await_none()
        times.append(time.perf_counter())
        tracer.finish()
    return Phases(probed, times[1] - times[0], times[3] - times[2])


def killed_while_it_attaches(target: Target, phases: Phases, share: float, mark: Mark) -> None:
    with (
        Watch.of(target.pid, phases.bytes) as watch,
        Tracer("-p", str(target.pid), NEVER, env=mark.env) as tracer,
    ):
        watch.await_any()
        wait_s(share * phases.attaching_s)
        tracer.process.kill()
        tracer.process.wait(DEADLINE_S)


def killed_while_it_detaches(target: Target, phases: Phases, share: float, mark: Mark) -> None:
    with (
        Watch.of(target.pid, phases.bytes) as watch,
        Tracer("-p", str(target.pid), NEVER, env=mark.env) as tracer,
    ):
        tracer.await_armed()
        tracer.process.send_signal(signal.SIGINT)
        watch.await_fewer()
        wait_s(share * phases.detaching_s)
        tracer.process.kill()
        tracer.process.wait(DEADLINE_S)


def wait_s(duration_s: float) -> None:
    """More exact than a sleep."""
    end = time.perf_counter() + duration_s
    while time.perf_counter() < end:
        pass


@pytest.mark.parametrize("kill", [killed_while_it_attaches, killed_while_it_detaches])
def test_killed_at_the_worst_moment(
    churner: Target, kill: Callable[[Target, Phases, float, Mark], None]
) -> None:
    phases = undisturbed(churner, {})
    for number in range(KILLS // 2):
        mark = Mark()
        # Most of them early: the code is written at the start of the phase, the rest is waiting.
        kill(churner, phases, 1.1 * (number / (KILLS // 2)) ** 4, mark)
        mark.await_end()
        is_unharmed(churner)


def test_killed_at_any_moment(churner: Target) -> None:
    """From its first instruction until it traces, or is about to end."""
    began_s = time.perf_counter()
    run_leaktrace("-p", str(churner.pid), "0.1", "1")
    whole_s = time.perf_counter() - began_s
    moments = random.Random(20261128)
    for _ in range(KILLS):
        mark = Mark()
        with Tracer("-p", str(churner.pid), "0.1", "1", env=mark.env) as tracer:
            wait_s(moments.random() * whole_s)
            tracer.process.kill()
            tracer.process.wait(DEADLINE_S)
        mark.await_end()
        is_unharmed(churner)


@pytest.mark.parametrize("way", WAYS)
def test_killed_while_it_traces(churner: Target, way: str) -> None:
    mark = Mark()
    with Tracer(
        "-p", str(churner.pid), NEVER, env={"LEAKTRACE_WITHOUT": WAYS[way], **mark.env}
    ) as tracer:
        tracer.await_armed()
        tracer.process.kill()
        tracer.process.wait(DEADLINE_S)
    mark.await_end()
    is_unharmed(churner)


def test_killed_with_its_process_group(churner: Target) -> None:
    """The keeper is not in leaktrace's process group."""
    phases = undisturbed(churner, {})
    mark = Mark()
    with (
        Watch.of(churner.pid, phases.bytes) as watch,
        Tracer("-p", str(churner.pid), NEVER, env=mark.env, own_group=True) as tracer,
    ):
        watch.await_any()
        os.killpg(tracer.pid, signal.SIGKILL)
        tracer.process.wait(DEADLINE_S)
    mark.await_end()
    is_unharmed(churner)


def test_killed_by_timeout(churner: Target, require_tool: Callable[[str], str]) -> None:
    """timeout(1) asks its whole process group to end, and kills it when that takes too long."""
    mark = Mark()
    prefix = (require_tool("timeout"), "-s", "INT", "-k", "0.02", "0.6")
    with Tracer("-p", str(churner.pid), NEVER, env=mark.env, prefix=prefix) as tracer:
        tracer.finish()
    mark.await_end()
    is_unharmed(churner)


def test_another_leaktrace_runs_on(compiled: Compiler) -> None:
    """Two leaktraces trace a process and one is killed: the other misses nothing."""
    mark = Mark()
    arguments = (*ONE_REPORT, NEVER)
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        process = ("-p", str(target.pid))
        with (
            Tracer(*process, *arguments, env=mark.env) as killed,
            Tracer(*process, *arguments) as other,
        ):
            killed.await_armed()
            other.await_armed()
            target.do("malloc 70 30")
            killed.process.kill()
            killed.process.wait(DEADLINE_S)
            mark.await_end()
            target.do("malloc 7 30")
            (report,) = other.stop().reports
        assert changed_bytes(target.pid) == []
        assert target.end() == 0
    assert report.outstanding == Total(77 * 30, 77)
    assert report.losses == {}


# --- a command that is stopped for a moment ----------------------------------------------------


@pytest.mark.parametrize(
    ("options", "set_uid"),
    [((), False), ((), True), (("--faults",), False)],  # such an exec ends events of page faults
    ids=["calls", "calls, set-uid", "faults"],
)
def test_killed_while_its_command_is_stopped(
    compiled: Compiler, tmp_path: Path, options: tuple[str, ...], set_uid: bool
) -> None:
    """The kernel forgets PR_SET_PDEATHSIG when a set-user-ID program is executed (prctl(2))."""
    program = compiled("commands.c")
    copy = tmp_path / "another"
    copy.write_bytes(program.read_bytes())
    copy.chmod(0o755)
    if set_uid:
        os.chown(copy, 65534, 65534)
        copy.chmod(0o4755)
    mark = Mark()
    output = ("--output", str(tmp_path / "reports"))
    with Tracer(*options, *output, "-c", str(program), NEVER, env=mark.env) as tracer:
        tracer.stdout.until(lambda line: line == "ready")
        assert tracer.process.stdin is not None
        (command,) = [
            pid for pid in mark.processes() if Path(f"/proc/{pid}/exe").readlink() == program
        ]
        tracer.process.send_signal(signal.SIGSTOP)  # it can't continue the command
        tracer.process.stdin.write(f"exec {copy}\nmalloc 10 20\n".encode())
        tracer.process.stdin.flush()
        deadline = time.monotonic() + DEADLINE_S
        while state_of(command) != "T":
            assert time.monotonic() < deadline, "the command was not stopped"
        assert Path(f"/proc/{command}/exe").readlink() == copy
        tracer.process.kill()
        tracer.process.wait(DEADLINE_S)
        tracer.stdout.until(lambda line: line == "done")
        tracer.process.stdin.close()
        assert tracer.stdout.rest() == []
    mark.await_end()


@pytest.mark.parametrize("options", [(), ("--faults",)], ids=["calls", "faults"])
def test_killed_at_some_moment_of_a_commands_start(
    compiled: Compiler, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """The command ends with its input, as it can't when it is stopped, or it never began."""
    arguments = (*options, "--output", str(tmp_path / "reports"), "-c", str(compiled("commands.c")))
    begin = time.perf_counter()
    with Tracer(*arguments, NEVER) as tracer:
        tracer.stdout.until(lambda line: line == "ready")
        start_s = time.perf_counter() - begin
    for number in range(KILLS // 2):
        mark = Mark()
        with Tracer(*arguments, NEVER, env=mark.env) as tracer:
            # Most in the last third, where the command is executed and stopped.
            time.sleep(start_s * (0.6 + 0.5 * number / (KILLS // 2)))
            tracer.process.kill()
            tracer.process.wait(DEADLINE_S)
        mark.await_end()


# --- no keeper stays ---------------------------------------------------------------------------


def test_after_an_ordinary_run(churner: Target) -> None:
    """When leaktrace has ended, so has its keeper: nothing is waited for here."""
    mark = Mark()
    run_leaktrace("-p", str(churner.pid), "0.1", "1", env=mark.env)
    assert mark.processes() == []
    is_unharmed(churner)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_after_a_signal(churner: Target, by: signal.Signals) -> None:
    mark = Mark()
    with Tracer("-p", str(churner.pid), NEVER, env=mark.env) as tracer:
        tracer.await_armed()
        assert tracer.stop(by).exit_code == 0
    assert mark.processes() == []
    is_unharmed(churner)


def test_after_a_closed_pipe(churner: Target) -> None:
    mark = Mark()
    line = f"{shlex.join(COMMAND)} -p {churner.pid} --format json 0.1 | head -n 1"
    pipeline = subprocess.run(
        line,
        shell=True,
        env=tracer_environment(mark.env),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    Report(pipeline.stdout)
    mark.await_end()  # the shell waits for head alone, perhaps
    is_unharmed(churner)


@pytest.mark.parametrize(
    "options",
    [("--obj", "/bin/true"), ("--symbols-prefix", "none_"), ("--max-allocs", "4000000000")],
)
def test_after_an_error_at_the_start(churner: Target, options: tuple[str, ...]) -> None:
    mark = Mark()
    outcome = run_leaktrace("-p", str(churner.pid), *options, "1", env=mark.env)
    assert outcome.exit_code != 0
    assert mark.processes() == []
    is_unharmed(churner)


# --- the keeper itself -------------------------------------------------------------------------


def test_the_keeper_is_small_and_hidden_from_a_killer_by_name(churner: Target) -> None:
    mark = Mark()
    with Tracer("-p", str(churner.pid), NEVER, env=mark.env) as tracer:
        tracer.await_armed()
        process = Path(f"/proc/{mark.keeper()}")
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        assert int(status["VmRSS"].split()[0]) < 14_000  # KiB; most of it is Python's own code
        assert b"leaktrace" not in (process / "cmdline").read_bytes()
        assert os.getsid(mark.keeper()) == mark.keeper()
        tracer.stop()


def test_the_end_of_the_keeper_is_reported(churner: Target) -> None:
    mark = Mark()
    with Tracer("-p", str(churner.pid), *ONE_REPORT, NEVER, env=mark.env) as tracer:
        tracer.await_armed()
        os.kill(mark.keeper(), signal.SIGKILL)
        outcome = tracer.finish()
    assert outcome.exit_code == 1
    assert names(outcome.stderr, "probe-keeper", "killed", 9)
    assert "Traceback" not in outcome.stderr
    (report,) = outcome.reports
    assert report.final
    assert report.raw["reason"] == "its probes were detached unexpectedly"
    is_unharmed(churner)


def test_the_keeper_killed_while_it_detaches_probes(churner: Target) -> None:
    """A copy of it does that by exiting, and an exiting process can't be killed."""
    phases = undisturbed(churner, {})
    for number in range(KILLS // 3):
        mark = Mark()
        with (
            Watch.of(churner.pid, phases.bytes) as watch,
            Tracer("-p", str(churner.pid), NEVER, env=mark.env) as tracer,
        ):
            tracer.await_armed()
            keeper = mark.keeper()
            tracer.process.send_signal(signal.SIGINT)
            watch.await_fewer()
            wait_s(phases.detaching_s * number / (KILLS // 3))
            with contextlib.suppress(ProcessLookupError):  # it may have finished
                os.kill(keeper, signal.SIGKILL)
            tracer.finish()
            watch.await_none()
        is_unharmed(churner)
