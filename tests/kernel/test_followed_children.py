"""Children are followed. What each process of the family holds is compared with its own account."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.changed_text import changed_bytes
from harness.compiling import Compiler
from harness.families import (
    OFTEN,
    await_report,
    await_traced,
    holds,
    keeps,
    last_report,
    notes_of,
    processes_of,
    what_is_held,
)
from harness.length import repetitions
from harness.lines import DEADLINE_S
from harness.marked import Mark
from harness.reports import Report, Total
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Tracer, tracer_environment

pytestmark = pytest.mark.usefixtures("require_bpf")


@pytest.fixture
def program(compiled: Compiler) -> Path:
    return compiled("family.c")


@pytest.fixture
def family(program: Path) -> Iterator[Target]:
    with Target([program]) as target:
        yield target.await_ready()


def test_workers_of_a_prefork_server(family: Target) -> None:
    """One site, and each worker's bytes from the moment when it is traced. What they have inherited
    stays their parent's."""
    with Tracer("-p", str(family.pid), "--follow", *OFTEN) as tracer:
        tracer.await_armed()
        accounts = {family.pid: keeps(family, 40, 1000)}
        workers = family.do("fork 5")
        await_traced(tracer, *workers)
        for index, pid in enumerate(workers):
            accounts[pid] = keeps(family, 10 + index, 300, index)
        report = last_report(tracer)
        assert family.end() == 0
    assert holds(report) == accounts
    assert report.losses == {}
    lines = processes_of(report)
    assert {lines[pid]["parent_pid"] for pid in workers} == {family.pid}


def test_a_worker_frees_what_it_has_inherited(family: Target) -> None:
    """Its copies were never counted as its own, and its parent still has its blocks."""
    with Tracer("-p", str(family.pid), "--follow", *OFTEN) as tracer:
        tracer.await_armed()
        account = keeps(family, 40, 1000)
        (worker,) = family.do("fork 1")
        await_traced(tracer, worker)
        keeps(family, 7, 300, 0)
        family.do("to 0 drop")
        report = last_report(tracer)
        assert family.end() == 0
    assert what_is_held(report) == {family.pid: account}


def test_grandchildren(family: Target) -> None:
    with Tracer("-p", str(family.pid), "--follow", *OFTEN) as tracer:
        tracer.await_armed()
        (child,) = family.do("fork 1")
        await_traced(tracer, child)
        (grandchild,) = family.do("to 0 fork 1")
        await_traced(tracer, grandchild)
        (last,) = family.do("to 0 to 0 fork 1")
        await_traced(tracer, last)
        accounts = {
            family.pid: keeps(family, 4, 100),
            child: keeps(family, 5, 100, 0),
            grandchild: keeps(family, 6, 100, 0, 0),
            last: keeps(family, 7, 100, 0, 0, 0),
        }
        report = last_report(tracer)
        assert family.end() == 0
    assert holds(report) == accounts
    lines = processes_of(report)
    assert [lines[one]["parent_pid"] for one in (child, grandchild, last)] == [
        family.pid,
        child,
        grandchild,
    ]


def test_grandchildren_that_are_forked_at_once(family: Target) -> None:
    """A child forks before it is attached."""
    with Tracer("-p", str(family.pid), "--follow", *OFTEN) as tracer:
        tracer.await_armed()
        (child,) = family.do("fork 1")
        (grandchild,) = family.do("to 0 fork 1")
        (last,) = family.do("to 0 to 0 fork 1")
        await_traced(tracer, child, grandchild, last)
        accounts = {last: keeps(family, 7, 100, 0, 0, 0), child: keeps(family, 2, 100, 0)}
        report = last_report(tracer)
        assert family.end() == 0
    assert holds(report) == accounts


@pytest.mark.parametrize("how", ["spawn", "vfork"])
def test_children_that_execute_a_program(family: Target, program: Path, how: str) -> None:
    with Tracer("-p", str(family.pid), "--follow", *OFTEN) as tracer:
        tracer.await_armed()
        account = keeps(family, 4, 100)
        (child,) = family.do(f"{how} {program}")
        await_traced(tracer, child)
        of_child = keeps(family, 9, 50, 0)
        report = last_report(tracer)
        assert family.end() == 0
    assert what_is_held(report) == {
        family.pid: account,
        child: of_child,
    }


@pytest.mark.parametrize("linking", [(), ("-static",)], ids=["dynamic", "static"])
def test_a_traced_child_executes_a_program(
    family: Target, compiled: Compiler, linking: tuple[str, ...]
) -> None:
    """What it held before is released. The malloc of a static program is its own: it is found
    anew."""
    program = compiled("family.c", *linking)
    with Tracer("-p", str(family.pid), "--follow", *OFTEN) as tracer:
        tracer.await_armed()
        account = keeps(family, 4, 100)
        (child,) = family.do("fork 1")
        await_traced(tracer, child)
        keeps(family, 1000, 100, 0)
        family.do(f"to 0 exec {program}")
        await_report(tracer, lambda report: "executed another program" in notes_of(report))
        if linking:
            await_report(tracer, lambda report: program.name in allocators_of(report))
        of_child = keeps(family, 9, 50, 0)
        report = last_report(tracer)
        assert family.end() == 0
    assert what_is_held(report) == {family.pid: account, child: of_child}


def allocators_of(report: Report) -> str:
    return "\n".join(report.raw["target"]["allocators"])


@pytest.mark.parametrize(
    "wrapper",
    [["sh", "-c", '"$0"; exit 0'], ["timeout", "60"], ["env"]],
    ids=lambda words: words[0],
)
def test_a_command_behind_another(
    program: Path, tmp_path: Path, wrapper: list[str], require_tool: Callable[[str], str]
) -> None:
    """With -c, children are followed without being asked for."""
    require_tool(wrapper[0])
    reports = tmp_path / "reports"
    options = [*OFTEN, "--output", str(reports)]
    with Tracer(*options, "--", *wrapper, program) as tracer:
        tracer.await_armed()
        tracer.stdout.until(lambda line: line == "ready")
        command = tracer.process.stdin
        assert command is not None
        command.write(b"pid\n")
        command.flush()
        answer = tracer.stdout.until(lambda line: line.startswith("done"))
        pid = int(answer.split()[1])
        _await_in_file(reports, pid, tracer)
        command.write(b"keep 25 400\n")
        command.flush()
        account = tracer.stdout.until(lambda line: line.startswith("done")).split()[1:]
        command.close()
        outcome = tracer.finish()
    assert outcome.exit_code == 0, outcome.stderr
    report = Report(reports.read_text().splitlines()[-1])
    assert report.under("scenario_keep") == Total(*map(int, account))


def _await_in_file(reports: Path, pid: int, tracer: Tracer) -> None:
    """Wait until a report in this file has the process."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        lines = reports.read_text().splitlines() if reports.exists() else []
        for line in lines:
            with contextlib.suppress(ValueError):  # half written
                report = Report(line)
                if pid in processes_of(report) or pid == report.raw["target"]["pid"]:
                    return
        time.sleep(0.05)
    raise AssertionError(f"{pid} is not traced: {tracer.stderr.seen}")


@pytest.mark.parametrize("count", [1, 6])
def test_children_that_are_not_followed_are_counted(family: Target, count: int) -> None:
    with Tracer("-p", str(family.pid), "--no-follow", *ONE_REPORT, NEVER) as tracer:
        tracer.await_armed()
        family.do(f"fork {count}")
        keeps(family, 3, 100, 0)
        report = last_report(tracer)
        assert family.end() == 0
    assert report.sites_under("scenario_keep") == ()
    assert re.search(rf"\b{count} child process", notes_of(report)), notes_of(report)


@pytest.mark.alone("thousands of forks")
def test_a_storm_of_forks(family: Target) -> None:
    """Every child is accounted for, and nothing of the parent is lost."""
    forked = repetitions(2000, 20000)
    with Tracer("-p", str(family.pid), "--follow", *OFTEN) as tracer:
        tracer.await_armed()
        account = Total(*family.do(f"storm {forked}"))
        report = last_report(tracer)
        assert family.end() == 0
    assert report.under("scenario_keep") == account
    assert report.lost_allocations == {}
    traced = {pid for line in tracer.stdout.seen for pid in processes_of(Report(line))}
    ended, others = children_without_trace(report)
    assert ended > 0
    # Children that are traced and end between two reports are in none of these counts.
    assert len(traced - {family.pid}) + ended + others <= forked


def children_without_trace(report: Report) -> tuple[int, int]:
    """How many ended too early, and how many are not traced for another reason."""
    counts = re.findall(r"([\d,]+) child processes (ended|are not traced)", notes_of(report))
    ended = sum(int(number.replace(",", "")) for number, why in counts if why == "ended")
    others = sum(int(number.replace(",", "")) for number, why in counts if why != "ended")
    return ended, others


def test_more_workers_than_may_be_traced(family: Target) -> None:
    options = ("--follow", "--max-processes", "3")
    with Tracer("-p", str(family.pid), *options, *OFTEN) as tracer:
        tracer.await_armed()
        workers = family.do("fork 5")
        report = await_report(tracer, lambda report: "not traced" in notes_of(report))
        traced = [pid for pid in workers if pid in processes_of(report)]
        assert len(traced) == 2
        for index, pid in enumerate(workers):
            account = keeps(family, 10, 100 + index, index)
            if pid in traced:
                assert account.count == 10
        report = last_report(tracer)
        assert family.end() == 0
    assert holds(report) == {
        pid: Total(10 * (100 + index), 10) for index, pid in enumerate(workers) if pid in traced
    }
    assert "3 child processes are not traced" in notes_of(report)


def test_the_slot_of_an_ended_process_is_used_again(family: Target) -> None:
    """None of the figures of the former process are in those of the new one."""
    options = ("--follow", "--max-processes", "2")
    with Tracer("-p", str(family.pid), *options, *OFTEN) as tracer:
        tracer.await_armed()
        for number in range(4):
            (worker,) = family.do("fork 1")
            await_traced(tracer, worker)
            account = keeps(family, 100 + number, 100, number)
            await_report(tracer, _holds_just({worker: account}))
            if number < 3:
                family.do(f"throw {number} {int(signal.SIGKILL)}")
                await_report(tracer, _says_that_it_ended(worker))
        report = last_report(tracer)
        assert family.end() == 0
    assert what_is_held(report) == {worker: account}


def _holds_just(held: dict[int, Total]) -> Callable[[Report], bool]:
    return lambda report: what_is_held(report) == held


def _says_that_it_ended(pid: int) -> Callable[[Report], bool]:
    return lambda report: _has_ended(report, pid)


def _has_ended(report: Report, pid: int) -> bool:
    line = processes_of(report).get(pid)
    return line is None or bool(line["has_ended"])


def test_how_workers_ended(family: Target) -> None:
    with Tracer("-p", str(family.pid), "--follow", *OFTEN) as tracer:
        tracer.await_armed()
        workers = family.do("fork 3")
        await_traced(tracer, *workers)
        status = family.do(f"throw 0 {int(signal.SIGKILL)}")
        assert status == (int(signal.SIGKILL),)
        family.do("to 1 exit 3")
        report = await_report(tracer, lambda one: all(_has_ended(one, pid) for pid in workers[:2]))
        lines = processes_of(report)
        account = keeps(family, 3, 100, 2)
        last = last_report(tracer)
        assert family.end() == 0
    ended = [lines[pid]["ending"] for pid in workers if pid in lines and lines[pid]["has_ended"]]
    assert ended, lines
    assert holds(last) == {workers[2]: account}


def test_all_processes_of_a_command_stay_in_the_last_report(program: Path, tmp_path: Path) -> None:
    reports = tmp_path / "reports"
    options = [*OFTEN, "--output", str(reports)]
    with Tracer(*options, "--", program) as tracer:
        tracer.await_armed()
        tracer.stdout.until(lambda line: line == "ready")
        command = tracer.process.stdin
        assert command is not None

        def do(line: str) -> list[int]:
            command.write(line.encode() + b"\n")
            command.flush()
            answer = tracer.stdout.until(lambda line: line.startswith("done"))
            return [int(word) for word in answer.split()[1:]]

        workers = do("fork 3")
        for pid in workers:
            _await_in_file(reports, pid, tracer)
        accounts = {
            pid: Total(*do(f"to {index} keep {index + 5} 100")) for index, pid in enumerate(workers)
        }
        do(f"throw 0 {int(signal.SIGKILL)}")
        do("to 1 exit 3")
        command.close()
        outcome = tracer.finish()
    assert outcome.exit_code == 0, outcome.stderr
    report = Report(reports.read_text().splitlines()[-1])
    assert report.final
    assert holds(report) == accounts
    lines = processes_of(report)
    assert lines[workers[0]]["ending"]["signal"] == int(signal.SIGKILL)
    assert lines[workers[1]]["ending"]["status"] == 3


@pytest.mark.alone("another tracer that ends would remove what a killed one left")
def test_killed_while_it_follows(family: Target) -> None:
    """kill -9 of leaktrace leaves no breakpoint in any of the processes."""
    mark = Mark()
    with Tracer("-p", str(family.pid), "--follow", *OFTEN, env=mark.env) as tracer:
        tracer.await_armed()
        workers = family.do("fork 4")
        await_traced(tracer, *workers)
        assert all(changed_bytes(pid) for pid in (family.pid, *workers))
        tracer.process.kill()
        tracer.process.wait(DEADLINE_S)
    mark.await_end()
    for pid in (family.pid, *workers):
        assert changed_bytes(pid) == []
    for index in range(4):
        assert keeps(family, 3, 100, index) == Total(300, 3)
    assert family.end() == 0


@pytest.mark.usefixtures("require_root")
def test_children_in_another_pid_namespace(program: Path, tmp_path: Path) -> None:
    """leaktrace itself runs in a pid namespace: the kernel's ids are not those that it knows."""
    script = f"""
    mkfifo $1/in $1/out
    {program} < $1/in > $1/out & target=$!
    exec 3> $1/in 4< $1/out
    read line <&4
    "$2" -m leaktrace -p $target --follow -f json -o 0 -T 1000 0.2 > $1/reports 2> $1/stderr &
    tracer=$!
    until grep -q "tracing pid" $1/stderr; do sleep 0.05; done
    echo "fork 2" >&3; read line <&4
    set -- $1 $line
    until grep -q "\\"pid\\": \\?$3," $1/reports && grep -q "\\"pid\\": \\?$4," $1/reports; do
        sleep 0.1; kill -0 $tracer || exit 1
    done
    echo "to 0 keep 5 100" >&3; read line <&4; echo "$3 $line"
    echo "to 1 keep 6 100" >&3; read line <&4; echo "$4 $line"
    kill -TERM $tracer; wait $tracer
    tail -n 1 $1/reports
    """
    done = subprocess.run(
        [
            *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("timeout", "60", "sh", "-c", script, "sh", str(tmp_path), sys.executable),
        ],
        env=tracer_environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    said = (tmp_path / "stderr").read_text()
    assert done.returncode == 0, (done.stdout, done.stderr, said)
    first, second, line = done.stdout.splitlines()[-3:]
    accounts = {}
    for answer in (first, second):
        pid, _, bytes_, count = answer.split()
        accounts[int(pid)] = Total(int(bytes_), int(count))
    assert holds(Report(line)) == accounts, said
