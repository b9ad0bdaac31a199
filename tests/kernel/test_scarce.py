"""Starts with something missing: a standard stream, memory, files, a directory for the cache.
leaktrace works, or says in two lines what is missing and what to do. The command that it starts has
the same environment as without leaktrace."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.length import chosen, crossed
from harness.lines import DEADLINE_S
from harness.reports import Report
from harness.target import Target
from harness.tracer import (
    COMMAND,
    DEFAULT_SIGNALS,
    NEVER,
    ONE_REPORT,
    Outcome,
    run_leaktrace,
    tracer_environment,
)
from harness.wording import names

pytestmark = pytest.mark.usefixtures("require_bpf")


def under(setting: str) -> list[str]:
    """A prefix that runs what follows with a redirection or after a command of the shell."""
    if setting[0] in "<>2":
        return ["sh", "-c", f'exec "$@" {setting}', "sh"]
    return ["sh", "-c", f'{setting}; exec "$@"', "sh"]


def check_told(outcome: Outcome, *what: object) -> None:
    """It ended with an error, and the last two lines name these."""
    assert outcome.exit_code in (1, 3), outcome.stderr
    assert "Traceback" not in outcome.stderr
    happened, hint = outcome.stderr.splitlines()[-2:]
    assert happened.startswith("leaktrace: "), outcome.stderr
    assert hint.startswith("  hint: "), outcome.stderr
    assert names(happened + hint, *what)


@pytest.fixture
def target(compiled: Compiler) -> Iterator[Target]:
    with Target([compiled("commands.c")]) as target:
        yield target.await_ready()


# --- standard streams --------------------------------------------------------------------------

WRITERS = [["-c", "true"], ["--help"], ["--version"], ["--ebpf"], ["doctor"]]


@pytest.mark.parametrize("arguments", WRITERS, ids=" ".join)
def test_standard_output_is_closed(arguments: list[str]) -> None:
    outcome = run_leaktrace(*arguments, prefix=under(">&-"))
    assert outcome.exit_code == 1
    check_told(outcome, "standard output", "closed")


@pytest.mark.parametrize("arguments", WRITERS, ids=" ".join)
def test_standard_output_and_error_are_closed(arguments: list[str]) -> None:
    outcome = run_leaktrace(*arguments, prefix=under(">&- 2>&-"))
    assert outcome == Outcome(1, "", "")


@pytest.mark.parametrize("arguments", WRITERS[1:], ids=" ".join)
def test_standard_output_is_full(arguments: list[str]) -> None:
    outcome = run_leaktrace(*arguments, prefix=under(">/dev/full"))
    assert outcome.exit_code == 1
    check_told(outcome, "can't write", "space")


@pytest.mark.parametrize("setting", ["2>&-", "2>/dev/full", "<&-", "<&- 2>&-"])
def test_other_streams_are_not_needed(setting: str) -> None:
    outcome = run_leaktrace(*ONE_REPORT, NEVER, "-c", "true", prefix=under(setting))
    assert outcome.exit_code == 0, outcome.stderr
    (report,) = outcome.reports
    assert report.final
    assert ("2>" in setting) == (outcome.stderr == "")


def test_notices_without_standard_error(target: Target) -> None:
    """memleak's format prints there what its reports can't contain."""
    arguments = ["-p", str(target.pid), "-f", "memleak", "-s", "10", "0.1", "1"]
    outcome = run_leaktrace(*arguments, prefix=under("2>&-"))
    assert outcome.exit_code == 0
    assert "stacks with outstanding allocations" in outcome.stdout


@pytest.mark.parametrize(
    ("arguments", "exit_code"), [(["-p", "1", "-s", "0"], 2), (["-p", "4194305"], 4)]
)
def test_errors_without_standard_error(arguments: list[str], exit_code: int) -> None:
    assert run_leaktrace(*arguments, prefix=under("2>&-")) == Outcome(exit_code, "", "")


def test_no_file_takes_the_place_of_a_closed_stream(target: Target, tmp_path: Path) -> None:
    """Code that writes to a closed stream must not write to a report, a map or a socket."""
    output = tmp_path / "reports"
    arguments = ["-p", str(target.pid), "--format", "json", "--output", str(output), "0.1"]
    tracer = subprocess.Popen(
        [*under("<&- >&- 2>&-"), *COMMAND, *arguments], env=tracer_environment()
    )
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not output.exists() or not output.read_bytes():
            assert time.monotonic() < deadline
        places = [Path(f"/proc/{tracer.pid}/fd/{number}").readlink() for number in range(3)]
        assert places == [Path("/")] * 3
        modes = [Path(f"/proc/{tracer.pid}/fdinfo/{number}").read_text() for number in range(3)]
        for mode in modes:  # neither to be read nor written
            (flags,) = [line.split()[1] for line in mode.splitlines() if line.startswith("flags")]
            assert int(flags, 8) & os.O_PATH
        tracer.terminate()
        assert tracer.wait(DEADLINE_S) == 0
    finally:
        tracer.kill()
        tracer.wait()
    reports = [Report(line) for line in output.read_text().splitlines()]
    assert reports[-1].final


# --- what a command finds ----------------------------------------------------------------------

LOOK = """
for number in 0 1 2; do
    if [ -e /proc/$$/fd/$number ]; then seen="$seen open"; else seen="$seen closed"; fi
done
{ echo $seen; grep SigIgn /proc/$$/status; ulimit -v; ulimit -n; env | grep THREADS; } > "$1"
exit 5
"""


@pytest.mark.parametrize(
    "setting",
    [
        "<&-",
        "2>&-",
        "<&- 2>&-",
        ">&-",
        "trap '' CHLD",
        "trap '' HUP",
        "ulimit -n 512",
        "export OMP_THREADS=7",
    ],
)
def test_a_command_finds_all_as_without_leaktrace(setting: str, tmp_path: Path) -> None:
    seen = []
    for name in ("untraced", "traced"):
        words = ["sh", "-c", LOOK, "sh", str(tmp_path / name)]
        report = ["--output", str(tmp_path / "report")]
        if name == "traced":
            outcome = run_leaktrace(
                *report, "--exit-code", "child", NEVER, "--", *words, prefix=under(setting)
            )
            assert outcome.exit_code == 5, outcome.stderr
        else:
            untraced = [*DEFAULT_SIGNALS, *under(setting), *words]
            assert subprocess.run(untraced, check=False).returncode == 5
        seen.append((tmp_path / name).read_text())
    assert seen[0] == seen[1]
    assert names((tmp_path / "report").read_text(), "status", 5)


# --- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kibibytes", "is_kept"),
    crossed([30_000, 60_000, 100_000, 150_000, 200_000, 300_000], [True, False]),
)
def test_memory_is_limited(kibibytes: int, is_kept: bool, target: Target, tmp_path: Path) -> None:
    """Whether the compiled program is cached or the compiler is needed."""
    env = {} if is_kept else {"XDG_CACHE_HOME": str(tmp_path)}
    arguments = ["-p", str(target.pid), *ONE_REPORT, "0.1", "1"]
    outcome = run_leaktrace(*arguments, prefix=under(f"ulimit -v {kibibytes}"), env=env)
    if outcome.exit_code == 0:
        (report,) = outcome.reports
        assert report.final
    else:
        check_told(outcome, "ulimit -v")
    assert target.do("calls 10") == ()


@pytest.mark.parametrize("arguments", [["-c", "true"], ["doctor"], ["--kernel", "0.1", "1"]])
def test_far_too_little_memory(arguments: list[str]) -> None:
    outcome = run_leaktrace(*arguments, prefix=under("ulimit -v 60000"))
    assert outcome.exit_code == 3
    check_told(outcome, "ulimit -v", 60000)


@pytest.mark.parametrize(
    ("how", "files"),
    crossed(["running", "faults", "command", "kernel"], [12, 16, 24, 32, 48, 64, 80, 96]),
)
def test_open_files_are_limited(how: str, files: int, target: Target) -> None:
    """What can't be opened for that reason is not reported as gone, missing or damaged."""
    arguments = {
        "running": ["-p", str(target.pid)],
        "faults": ["-p", str(target.pid), "--faults"],
        "command": ["-c", "true"],
        "kernel": ["--kernel"],
    }[how]
    outcome = run_leaktrace(*arguments, *ONE_REPORT, "0.1", "1", prefix=under(f"ulimit -n {files}"))
    if outcome.exit_code:
        check_told(outcome, "ulimit -n")
    assert target.do("calls 10") == ()


def test_no_thread_is_started(target: Target, tmp_path: Path) -> None:
    """Each would take memory, and fail where processes are limited."""
    output = tmp_path / "reports"
    tracer = subprocess.Popen(
        [*COMMAND, "-p", str(target.pid), "--output", str(output), "0.1"], env=tracer_environment()
    )
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not output.exists() or not output.read_bytes():
            assert time.monotonic() < deadline
        assert len(list(Path(f"/proc/{tracer.pid}/task").iterdir())) == 1
        tracer.terminate()
        assert tracer.wait(DEADLINE_S) == 0
    finally:
        tracer.kill()
        tracer.wait()


# --- places to write to ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "places",
    chosen(
        [
            {"HOME": "/proc", "XDG_CACHE_HOME": "", "TMPDIR": "/nowhere"},
            {"XDG_CACHE_HOME": "/dev/null"},
        ],
        [{"HOME": "", "XDG_CACHE_HOME": "", "TMPDIR": ""}, {"XDG_CACHE_HOME": "/proc/1"}],
    ),
    ids=lambda places: " ".join(f"{name}={value}" for name, value in places.items()),
)
def test_no_directory_for_the_cache(places: dict[str, str]) -> None:
    outcome = run_leaktrace(*ONE_REPORT, NEVER, "-c", "true", env=places)
    assert outcome.exit_code == 0, outcome.stderr
    (report,) = outcome.reports
    assert report.final


def test_a_file_system_that_is_full(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=4k none "{tmp_path}" && exec "$@"'
    outcome = run_leaktrace(
        *ONE_REPORT, NEVER, "-c", "true", env={"XDG_CACHE_HOME": str(tmp_path)},
        prefix=["unshare", "--mount", "sh", "-c", mount, "sh"],
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.stderr
    (report,) = outcome.reports
    assert report.final
