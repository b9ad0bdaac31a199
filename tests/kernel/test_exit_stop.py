"""A command is stopped as it exits, so that its last report knows the memory that it still has. It
must not notice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.length import crossed, repetitions
from harness.processes import await_gone, await_stopped, children
from harness.reports import Report, Total
from harness.tracer import NEVER, ONE_REPORT, Tracer, run_leaktrace
from harness.wording import lines_naming

pytestmark = pytest.mark.usefixtures("require_bpf")

KEPT = {"scenario_keep_small": Total(100_000, 100), "scenario_keep_large": Total(20 << 20, 1)}
CLOSE_BYTES = 512 << 10  # what the program touches after it has looked, and batched counters


class Run:
    """One run of a program under leaktrace."""

    def __init__(
        self,
        *words: str | Path,
        reports: Path,
        env: dict[str, str] | None = None,
        fds: bool = False,
    ) -> None:
        traced = ("--fds", "--no-malloc") if fds else ()
        outcome = run_leaktrace(
            *ONE_REPORT, *traced, "-v", "--exit-code", "child", "--output", reports, NEVER,
            "--", *words, env=env,
        )  # fmt: skip
        assert "Traceback" not in outcome.stderr, outcome.stderr
        self.exit_code, self.printed, self.stderr = (
            outcome.exit_code,
            outcome.stdout,
            outcome.stderr,
        )
        self.report = Report(reports.read_text().splitlines()[-1])

    @property
    def was_stopped(self) -> bool:
        return bool(lines_naming(self.stderr, "stopped for", "exited"))

    def check(self, exit_code: int) -> None:
        """What holds for each way in which the program ends."""
        assert self.exit_code == exit_code, self.stderr
        assert self.report.final
        assert self.report.losses == {}
        for function, total in KEPT.items():
            assert self.report.under(function) == total
        assert all(site.raw["stack_end"] == "complete" for site in self.report.sites_under("main"))


def printed_resident(run: Run) -> int:
    """Its own account of its resident memory, in bytes."""
    (line,) = [line for line in run.printed.splitlines() if line.startswith("resident ")]
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize(
    ("mode", "linking"), crossed(["plain", "quick", "children"], ["dynamic", "static"])
)
def test_memory_at_exit(mode: str, linking: str, compiled: Compiler, tmp_path: Path) -> None:
    program = compiled("exits.c", *(["-static"] if linking == "static" else []))
    run = Run(program, mode, "7", reports=tmp_path / "reports")
    run.check(7)
    assert run.printed.count("\n") == 1
    assert run.was_stopped
    resident = run.report.raw["resident"]
    assert resident["at_exit"]
    assert abs(resident["bytes"] - printed_resident(run)) < CLOSE_BYTES


def test_what_it_shares_at_last(compiled: Compiler, tmp_path: Path) -> None:
    """What backs a mapping is read from the mappings, here at the exit."""
    run = Run(compiled("exits.c"), "sharing", "7", reports=tmp_path / "reports")
    run.check(7)
    held = {one["backing"]: one["outstanding"] for one in run.report.raw["other_memory"]}
    assert held == {
        "sysv": {"bytes": 1 << 20, "count": 1},
        "shared_file": {"bytes": 1 << 20, "count": 1},
        "break": {"bytes": 0, "count": 0},
    }


@pytest.mark.parametrize(
    ("mode", "exit_code"), [("handler", 7), ("early", 7), ("threads", 7), ("killed", 137)]
)
def test_where_a_stop_would_be_noticed(
    mode: str, exit_code: int, compiled: Compiler, tmp_path: Path
) -> None:
    """It isn't stopped, and the report is made of what is known without its memory."""
    run = Run(compiled("exits.c"), mode, "7", reports=tmp_path / "reports")
    run.check(exit_code)
    assert run.printed.split()[0] == "resident"
    assert run.printed.count("\n") == 1, "the program has noticed something"
    assert not run.was_stopped
    assert run.report.raw["resident"] is None


def test_without_type_information(compiled: Compiler, tmp_path: Path) -> None:
    run = Run(
        compiled("exits.c"), "plain", "7", reports=tmp_path / "reports",
        env={"LEAKTRACE_WITHOUT": "exit_stop"},
    )  # fmt: skip
    run.check(7)
    assert not run.was_stopped


def test_every_run_of_a_short_program_is_exact(compiled: Compiler, tmp_path: Path) -> None:
    """It lives for 10 ms."""
    program = compiled("exits.c")
    for number in range(repetitions(4, 1000)):
        status = number % 100
        run = Run(program, "plain", str(status), reports=tmp_path / f"{number}")
        run.check(status)
        assert run.was_stopped


def is_called(pid: int, name: str) -> bool:
    return Path(f"/proc/{pid}/comm").read_text().strip() == name


def test_leaktrace_is_killed_while_the_command_is_stopped(
    compiled: Compiler, tmp_path: Path
) -> None:
    """leaktrace can't continue the command, because it is stopped itself. It is killed: the command
    goes on and exits."""
    done = tmp_path / "done"
    words = [
        "sh",
        "-c",
        f"echo up; read line; {compiled('exits.c')} plain; echo $? >{done}; exit 4",
    ]
    with Tracer("--output", "/dev/null", NEVER, "--", *words) as tracer:
        tracer.await_armed()
        tracer.stdout.until(lambda line: line == "up")
        (command,) = [one for one in children(tracer.pid) if is_called(one, "sh")]
        os.kill(tracer.pid, signal.SIGSTOP)
        await_stopped(tracer.pid)
        assert tracer.process.stdin is not None
        tracer.process.stdin.write(b"go\n")
        tracer.process.stdin.flush()
        await_stopped(command)
        assert done.read_text() == "0\n"
        tracer.process.kill()
        await_gone([command])


def test_a_set_user_id_program(compiled: Compiler, tmp_path: Path) -> None:
    """It gets the rights of its owner, as it does untraced, and leaktrace continues it."""
    program = Path(shutil.copy(shutil.which("id") or "", tmp_path / "id"))
    os.chown(program, 65534, 65534)
    program.chmod(0o4755)
    untraced = subprocess.run([program, "-u"], capture_output=True, check=True).stdout
    assert untraced == b"65534\n"
    run = Run(program, "-u", reports=tmp_path / "reports")
    assert run.printed.encode() == untraced
    assert run.exit_code == 0
    assert run.was_stopped


def test_a_command_that_the_user_has_stopped(tmp_path: Path) -> None:
    """It stays stopped until leaktrace ends it."""
    with Tracer(
        "--output", tmp_path / "report", NEVER, "--", "sh", "-c", "echo up; read line"
    ) as tracer:
        tracer.stdout.until(lambda line: line == "up")
        (command,) = [one for one in children(tracer.pid) if is_called(one, "sh")]
        os.kill(command, signal.SIGSTOP)
        await_stopped(command)
        time.sleep(0.2)  # the thread that waits for a stop looks at it several times
        await_stopped(command)
        outcome = tracer.stop()
    assert outcome.exit_code == 0, outcome.stderr
    assert "Traceback" not in outcome.stderr
    await_gone([command])


def test_a_stop_by_the_user_is_not_undone(tmp_path: Path, compiled: Compiler) -> None:
    """Not by a report either. The program makes no call that is hooked."""
    program = compiled("waits.c")
    with Tracer("--output", tmp_path / "report", "0.1", "--", program) as tracer:
        tracer.stdout.until(lambda line: line == "up")
        (command,) = [one for one in children(tracer.pid) if is_called(one, program.name[:15])]
        os.kill(command, signal.SIGSTOP)
        await_stopped(command)
        time.sleep(0.5)  # several reports
        assert Path(f"/proc/{command}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        outcome = tracer.stop()
    assert outcome.exit_code == 0, outcome.stderr


def test_where_it_could_not_be_continued(compiled: Compiler, tmp_path: Path) -> None:
    """Without CAP_KILL, a program that becomes another user's in a session of its own."""
    outcome = run_leaktrace(
        *ONE_REPORT, "-v", NEVER, "--", compiled("changes_user.c"),
        prefix=("setpriv", "--bounding-set", "-kill", "--inh-caps", "-kill"),
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not lines_naming(outcome.stderr, "stopped for")
    (report,) = outcome.reports
    assert report.under("main") == Total(1000, 1)
    assert report.raw["resident"] is None


def test_the_first_call_of_a_command(compiled: Compiler, tmp_path: Path) -> None:
    """It is stopped before that, so its stack has unwind tables, whatever the function is."""
    outcome = run_leaktrace(*ONE_REPORT, NEVER, "--", compiled("maps_first.c"))
    (report,) = outcome.reports
    (site,) = report.sites_under("scenario_map")
    assert site.total == Total(10 * 4096, 10)
    assert site.raw["stack_end"] == "complete"


def test_the_descriptors_that_it_has_open(tmp_path: Path) -> None:
    """How near it is to its limit, in the only report that there is."""
    opening = " ".join(f"{number}</dev/null" for number in range(3, 10))
    run = Run("sh", "-c", f"ulimit -Sn 10; exec {opening}", reports=tmp_path / "reports", fds=True)
    assert run.was_stopped
    (use,) = run.report.raw["descriptors"]["processes"]
    assert (use["open"], use["limit"], use["near_limit"]) == (10, 10, True)
    assert run.report.outstanding.count == 7
