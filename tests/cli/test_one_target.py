"""Several targets on one command line: none is dropped silently or misunderstood. This is checked
before any privilege. tests/kernel/test_family.py traces several processes."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.target import Target
from harness.tracer import Outcome, run_leaktrace
from harness.wording import lines_naming, names

USAGE, TARGET = 2, 4


@pytest.fixture
def workers(compiled: Compiler) -> Iterator[list[int]]:
    """Three processes of one program, as `pidof` gives them."""
    with contextlib.ExitStack() as stack:
        targets = [stack.enter_context(Target([compiled("commands.c")])) for _ in range(3)]
        yield [target.await_ready().pid for target in targets]


def check_refused(outcome: Outcome, *shown: object) -> None:
    """Two lines: what happened, which names `shown`, and what to do."""
    assert outcome.exit_code == USAGE, outcome.stderr
    assert outcome.stdout == ""
    happened, hint = outcome.stderr.splitlines()
    assert names(happened, *shown)
    assert hint.startswith("  hint: ")


def unprivileged() -> list[str]:
    """A prefix for a user who may not trace: exit code 3 then means that the usage was accepted."""
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    return [*nobody, "--inh-caps", "-all", "--bounding-set", "-all"]


@pytest.mark.parametrize("count", [2, 3])
def test_task_takes_one_process(count: int, workers: list[int]) -> None:
    if workers[1] <= 60:
        pytest.skip("process ids are as small as intervals here")
    outcome = run_leaktrace("--kernel", "--task", *map(str, workers[:count]))
    check_refused(outcome, workers[0], workers[1], "one process")
    assert f"{workers[1]}.0" in outcome.stderr


@pytest.mark.usefixtures("require_root")
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("numbers", [(), ("77",), ("77", "3")])
def test_process_ids_behind_the_first(
    count: int, numbers: tuple[str, ...], workers: list[int]
) -> None:
    """-p $(pidof worker), with as many workers: they are processes, and what follows them is the
    interval and the count. That is told."""
    if workers[1] <= 60:
        pytest.skip("process ids are as small as intervals here")
    named = workers[:count]
    words = map(str, named)
    outcome = run_leaktrace("-p", *words, *numbers, prefix=unprivileged())
    assert outcome.exit_code == 3, outcome.stderr
    (notice,) = lines_naming(outcome.stderr, "same program")
    assert f"-p {','.join(map(str, named))})" in notice


def test_more_process_ids_than_there_are_numbers(workers: list[int]) -> None:
    with subprocess.Popen(["sleep", "3600"]) as other:
        words = (str(workers[0]), "5", "6", str(other.pid))
        outcome = run_leaktrace("-p", *words)
        other.kill()
    check_refused(outcome, other.pid, workers[0])
    check_refused(run_leaktrace("doctor", "-p", *map(str, workers)), workers[1], workers[2])


def test_a_process_id_too_large_for_an_interval() -> None:
    outcome = run_leaktrace("-p", "1", "4000000")
    check_refused(outcome, 4000000)
    assert names(outcome.stderr, "-p 12,13")


@pytest.mark.parametrize("words", [("-p", "{0},{1},{2}"), ("-p", "{0}", "--pid", "{1},{2}")])
def test_more_processes_than_max_processes(words: tuple[str, ...], workers: list[int]) -> None:
    named = [word.format(*workers) for word in words]
    outcome = run_leaktrace(*named, "--max-processes", "2")
    check_refused(outcome, 3, "--max-processes")
    assert names(outcome.stderr, "--max-processes 3")


def test_no_process_has_such_a_name() -> None:
    outcome = run_leaktrace("--name", "^there is no such process$")
    assert outcome.exit_code == TARGET
    assert names(outcome.stderr, "there is no such process")


def test_there_is_no_such_control_group() -> None:
    outcome = run_leaktrace("--cgroup", "no-such-group-of-ours.service")
    assert outcome.exit_code == TARGET
    assert names(outcome.stderr, "no-such-group-of-ours.service")


def test_follow_is_for_processes() -> None:
    check_refused(run_leaktrace("--kernel", "--follow"), "--follow", "--kernel")
    check_refused(run_leaktrace("--kernel", "--no-follow"), "--no-follow", "--kernel")


@pytest.mark.usefixtures("require_root")
@pytest.mark.parametrize("suffix", [".0", "e0"])
def test_an_intended_interval(suffix: str, workers: list[int]) -> None:
    """If it isn't written like a process id, it is accepted: the run gets to the next check."""
    interval = f"{workers[1]}{suffix}"
    outcome = run_leaktrace("-p", str(workers[0]), interval, prefix=unprivileged())
    assert outcome.exit_code == 3, outcome.stderr
    assert lines_naming(outcome.stderr, "interval") == []


@pytest.mark.usefixtures("require_root")
def test_numbers_that_are_intervals(workers: list[int]) -> None:
    """A process of another program, a kernel thread, a thread, a number of no process."""
    with subprocess.Popen(["sleep", "3600"]) as other:
        for word in (str(other.pid), "2", "60", "99999"):
            outcome = run_leaktrace("-p", str(workers[0]), word, "10", prefix=unprivileged())
            assert outcome.exit_code == 3, outcome.stderr
        other.kill()


@pytest.mark.usefixtures("require_root")
def test_a_long_interval_that_is_a_process_gets_a_notice(workers: list[int]) -> None:
    last_pid = Path("/proc/sys/kernel/ns_last_pid")  # a machine that has just booted has small ids
    if int(last_pid.read_text()) <= 3600:
        last_pid.write_text("3600")
    with subprocess.Popen(["sleep", "3600"]) as other:
        word = str(other.pid)
        outcome = run_leaktrace("-p", str(workers[0]), word, prefix=unprivileged())
        other.kill()
    assert outcome.exit_code == 3, outcome.stderr
    assert len(lines_naming(outcome.stderr, other.pid, "interval", "not as a process id")) == 1


@pytest.mark.usefixtures("require_root")
def test_small_process_ids_as_in_a_container(compiled: Compiler, tmp_path: Path) -> None:
    """Where process ids are as small as usual intervals, a single one may be an interval: it is
    accepted with a notice. Two of them are no coincidence."""
    program = compiled("commands.c")
    script = f"""
    mkfifo {tmp_path}/in
    sleep 3600 > {tmp_path}/in &
    {program} < {tmp_path}/in > /dev/null & first=$!
    {program} < {tmp_path}/in > /dev/null & second=$!
    {program} < {tmp_path}/in > /dev/null & third=$!
    for pid in $first $second $third; do
        until [ "$(readlink /proc/$pid/exe)" = {program} ]; do :; done
    done
    setpriv {" ".join(unprivileged()[1:])} "$@" -p $first $second $third; echo "two: $? $second"
    setpriv {" ".join(unprivileged()[1:])} "$@" -p $first $second; echo "one: $?"
    """
    outcome = run_leaktrace(
        prefix=[
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            script,
            "sh",
        ]
    )
    lines = outcome.stdout.splitlines()
    assert lines[0].startswith("two: 3 "), outcome.stderr
    second = lines[0].split()[-1]
    assert lines[1] == "one: 3", outcome.stderr
    assert len(lines_naming(outcome.stderr, int(second), "interval", "not traced")) == 1
    (notice,) = lines_naming(outcome.stderr, "same program")
    assert f",{second}," in notice


@pytest.mark.parametrize(
    ("arguments", "first", "second"),
    [
        (["doctor", "-p", "101", "-p", "102"], 101, 102),
        (["-k", "--task", "101", "--task", "102"], 101, 102),
        (["-c", "true", "-c", "false"], "true", "false"),
        (["-p", "1", "-O", "c", "-O", "jemalloc"], "c", "jemalloc"),
        (["-p", "1", "--symbols-prefix", "a_", "--symbols-prefix", "b_"], "a_", "b_"),
        (["-p", "1", "--output", "a.txt", "--output", "b.txt"], "a.txt", "b.txt"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_option_given_twice_whose_first_value_would_be_lost(
    arguments: list[str], first: object, second: object
) -> None:
    check_refused(run_leaktrace(*arguments), first, second)


@pytest.mark.usefixtures("require_root")
def test_an_option_given_twice_that_only_sets_something(workers: list[int]) -> None:
    """The last one counts, as usual: an alias may have given the first. The same target twice is
    one target."""
    pid = str(workers[0])
    outcome = run_leaktrace("-T", "3", "-p", pid, "-T", "5", "-p", pid, prefix=unprivileged())
    assert outcome.exit_code == 3, outcome.stderr
