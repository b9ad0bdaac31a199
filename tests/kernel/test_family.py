"""Several processes in one run. What each holds is compared with its own account."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.families import (
    OFTEN,
    holds,
    keeps,
    last_report,
    processes_of,
    share_of,
    what_is_held,
)
from harness.lines import DEADLINE_S
from harness.reports import Total
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Tracer, run_leaktrace
from harness.wording import lines_naming

pytestmark = pytest.mark.usefixtures("require_bpf")

TEN = 10


@pytest.fixture
def program(compiled: Compiler) -> Path:
    return compiled("family.c")


@contextlib.contextmanager
def several(program: Path, count: int) -> Iterator[list[Target]]:
    with contextlib.ExitStack() as stack:
        targets = [stack.enter_context(Target([program])) for _ in range(count)]
        yield [target.await_ready() for target in targets]


def pids_of(targets: list[Target]) -> str:
    return ",".join(str(target.pid) for target in targets)


# --- processes that run already ----------------------------------------------------------------


def test_ten_at_once(program: Path) -> None:
    """One site, and of each process what it holds of it."""
    with several(program, TEN) as targets:
        with Tracer("-p", pids_of(targets), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            accounts = {one.pid: keeps(one, 10 + number, 100) for number, one in enumerate(targets)}
            report = last_report(tracer)
        assert [one.end() for one in targets] == [0] * TEN
    assert holds(report) == accounts
    assert report.losses == {}
    assert report.outstanding.bytes == sum(one.bytes for one in accounts.values())
    lines = processes_of(report)
    assert set(lines) == set(accounts)
    assert {pid: line["outstanding"]["bytes"] for pid, line in lines.items()} == {
        pid: account.bytes for pid, account in accounts.items()
    }


def test_the_same_addresses_in_two_processes(program: Path) -> None:
    """Processes of one program without address randomization: a free in one process does not
    release the block of another."""
    prefix = ["setarch", "-R"]
    with contextlib.ExitStack() as stack:
        targets = [stack.enter_context(Target([*prefix, program])).await_ready() for _ in range(2)]
        with Tracer("-p", pids_of(targets), *ONE_REPORT, "-a", NEVER) as tracer:
            tracer.await_armed()
            for target in targets:
                keeps(target, 50, 200)
            targets[0].do("drop")
            report = last_report(tracer)
    assert holds(report) == {targets[1].pid: Total(50 * 200, 50)}
    assert {one["pid"] for one in report.raw["allocations"]} == {targets[1].pid}


def test_one_that_has_ended_is_told_and_the_others_go_on(program: Path) -> None:
    with several(program, 3) as targets:
        targets[1].end()
        with Tracer("-p", pids_of(targets), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            accounts = {one.pid: keeps(one, 5, 70) for one in (targets[0], targets[2])}
            report = last_report(tracer)
        assert lines_naming("\n".join(tracer.stderr.seen), "not traced", targets[1].pid)
    assert holds(report) == accounts


def test_one_that_vanishes_while_leaktrace_attaches(program: Path) -> None:
    with several(program, TEN) as targets, Tracer("-p", pids_of(targets), *OFTEN) as tracer:
        tracer.stderr.until(lambda line: "attaching" in line)
        targets[4].process.kill()
        targets[4].process.wait(DEADLINE_S)
        tracer.await_armed()
        others = [one for one in targets if one is not targets[4]]
        accounts = {one.pid: keeps(one, 3, 90) for one in others}
        report = last_report(tracer)
    assert what_is_held(report) == accounts


def test_a_process_that_cannot_be_traced_is_told(
    program: Path, require_tool: Callable[[str], str]
) -> None:
    """A process without an allocator among others."""
    sleep = [require_tool("gcc"), "-static", "-nostdlib", "-x", "c", "-", "-o"]
    bare = program.parent / "bare"
    source = '__asm__(".globl _start\\n_start: mov $34, %eax\\n syscall\\n jmp _start");'
    subprocess.run([*sleep, bare], input=source.encode(), check=True)
    with several(program, 2) as targets, subprocess.Popen([bare]) as other:
        try:
            pids = f"{targets[0].pid},{other.pid},{targets[1].pid}"
            with Tracer("-p", pids, *ONE_REPORT, NEVER) as tracer:
                tracer.await_armed()
                accounts = {one.pid: keeps(one, 5, 70) for one in targets}
                report = last_report(tracer)
        finally:
            other.kill()
    assert lines_naming("\n".join(tracer.stderr.seen), "not traced", other.pid)
    assert holds(report) == accounts
    assert other.pid not in processes_of(report)


@pytest.mark.usefixtures("require_root")
def test_processes_of_others_are_told(program: Path) -> None:
    """Without the right to trace processes of other users, own ones are traced."""
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]
    without = "-sys_ptrace,-dac_read_search,-dac_override"
    dropped = ["setpriv", f"--bounding-set={without}", f"--inh-caps={without}"]
    with Target([*dropped, program]) as mine, Target([*nobody, program]) as others:
        pids = f"{mine.await_ready().pid},{others.await_ready().pid}"
        with Tracer("-p", pids, *ONE_REPORT, NEVER, prefix=dropped) as tracer:
            tracer.await_armed()
            account = keeps(mine, 5, 70)
            report = last_report(tracer)
        assert lines_naming("\n".join(tracer.stderr.seen), "not traced", others.pid)
    assert report.under("scenario_keep") == account


def test_by_name(program: Path, tmp_path: Path) -> None:
    copy = tmp_path / "oddly-named"
    copy.write_bytes(program.read_bytes())
    copy.chmod(0o755)
    with several(copy, 3) as targets, several(program, 1):
        with Tracer("--name", "^oddly-n.*d$", *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            accounts = {one.pid: keeps(one, 5, 70) for one in targets}
            report = last_report(tracer)
        assert [one.end() for one in targets] == [0] * len(targets)
    assert holds(report) == accounts
    assert set(processes_of(report)) == set(accounts)


@pytest.mark.may_skip("not every machine lets root make a control group")
def test_by_control_group(program: Path) -> None:
    # Of version 2, or a hierarchy of version 1.
    roots = [Path("/sys/fs/cgroup"), *(Path("/sys/fs/cgroup") / one for one in ("pids", "memory"))]
    root = next((one for one in roots if os.access(one / "cgroup.procs", os.W_OK)), None)
    if root is None:
        pytest.skip("no control group can be made here")
    group = root / f"leaktrace-test-{os.getpid()}"
    group.mkdir()
    try:
        with several(program, 3) as targets:
            for one in targets[:2]:
                (group / "cgroup.procs").write_text(str(one.pid))
            with Tracer("--cgroup", group.name, *ONE_REPORT, NEVER) as tracer:
                tracer.await_armed()
                accounts = {one.pid: keeps(one, 5, 70) for one in targets}
                report = last_report(tracer)
            for one in targets[:2]:
                (root / "cgroup.procs").write_text(str(one.pid))
    finally:
        group.rmdir()
    assert holds(report) == {one.pid: accounts[one.pid] for one in targets[:2]}


def test_by_process(program: Path) -> None:
    """Each process with its own sites."""
    with several(program, 2) as targets:
        with Tracer("-p", pids_of(targets), *ONE_REPORT, "--by", "process", NEVER) as tracer:
            tracer.await_armed()
            accounts = {one.pid: keeps(one, 4 + one.pid % 2, 70) for one in targets}
            report = last_report(tracer)
        assert [one.end() for one in targets] == [0] * len(targets)
    found = {
        part["pid"]: sum(
            site["bytes"]
            for site in part["sites"]
            if any(frame["function"] == "scenario_keep" for frame in site["frames"])
        )
        for part in report.raw["by_process"]
    }
    assert found == {pid: account.bytes for pid, account in accounts.items()}


# --- other ways to trace and to report ---------------------------------------------------------


def test_traced_calls_of_two_processes(program: Path) -> None:
    with several(program, 2) as targets:
        with Tracer("-p", pids_of(targets), "-t", "-f", "json", NEVER) as tracer:
            tracer.await_armed()
            for number, one in enumerate(targets):
                keeps(one, 3 + number, 1234)
            outcome = tracer.stop()
        assert [one.end() for one in targets] == [0] * len(targets)
    lines = [line for line in outcome.stdout.splitlines() if "1234" in line]
    for number, one in enumerate(targets):
        calls = [line for line in lines if re.search(rf'"(tid|thread)": ?{one.pid}\b', line)]
        assert len(calls) == 3 + number, outcome.stdout


def test_page_faults_of_two_processes(program: Path) -> None:
    """Each process faults in what it keeps."""
    with several(program, 2) as targets:
        with Tracer("-p", pids_of(targets), "--faults", *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            for one in targets:
                keeps(one, 200, 16 << 10)
            report = last_report(tracer)
        assert [one.end() for one in targets] == [0] * len(targets)
    found: dict[int, int] = {}
    for site in report.sites_under("scenario_keep"):
        for pid, faults in share_of(site).items():
            found[pid] = found.get(pid, 0) + faults.count
    # A block's header is written: at least each fourth page.
    assert set(found) == {one.pid for one in targets}
    assert all(count >= 200 for count in found.values()), found


def test_the_format_of_memleak(program: Path) -> None:
    with several(program, 2) as targets:
        with Tracer("-p", pids_of(targets), "-f", "memleak", "-o", "0", NEVER) as tracer:
            tracer.await_armed()
            accounts = [keeps(one, 5, 70) for one in targets]
            outcome = tracer.stop()
        assert [one.end() for one in targets] == [0] * len(targets)
    total = Total(sum(one.bytes for one in accounts), sum(one.count for one in accounts))
    assert outcome.exit_code == 0, outcome.stderr
    assert f"{total.bytes} bytes in {total.count} allocations from stack" in outcome.stdout


def test_more_processes_than_may_be_named(program: Path) -> None:
    with several(program, 3) as targets:
        outcome = run_leaktrace("-p", pids_of(targets), "--max-processes", "2")
    assert outcome.exit_code == 2
    assert lines_naming(outcome.stderr, "--max-processes", 3)
