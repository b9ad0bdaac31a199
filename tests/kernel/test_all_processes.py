"""--all-processes: which process of the machine grows. The truth is each program's own account."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from harness.compiling import Compiler
from harness.privileges import anybodys_python, nobody_with
from harness.target import Target
from harness.tracer import NEVER, REPOSITORY, Outcome, Tracer, run_leaktrace

from leaktrace.ranking.new_pages import open_new_pages

pytestmark = pytest.mark.usefixtures("require_bpf")

PAGE = 4096
# Before "mm: fix the inaccurate memory statistics issue for users" (Linux 6.16) the kernel shows
# the memory of a process without what up to 64 page faults of each CPU have added.
INEXACT_BYTES = 64 * PAGE * (os.cpu_count() or 1)
CHILD_PAGES = 100  # of tests/programs/grower.c
# Of a process that does little: its stack, its libraries' data, copies after a fork.
FEW_PAGES = 200
TOP = "100000"

Ranking = dict[str, Any]


class Ranker(Tracer):
    """leaktrace --all-processes, with reports in JSON."""

    def __init__(self, *arguments: str, **how: Any) -> None:
        super().__init__("--all-processes", "-f", "json", "-T", TOP, *arguments, **how)

    def await_started(self) -> Ranker:
        self.stderr.until(lambda line: re.search(r"ranking [\d,]+ process", line) is not None)
        return self

    def next_ranking(self) -> Ranking:
        line = self.stdout.next()
        assert line is not None, self.stderr.rest()
        return ranking(line)

    def final(self) -> Ranking:
        """Interrupt it; the report of that moment."""
        outcome = self.stop()
        assert outcome.exit_code == 0, outcome.stderr
        assert "Traceback" not in outcome.stderr
        return ranking(outcome.stdout.splitlines()[-1])


def ranking(line: str) -> Ranking:
    found: Ranking = json.loads(line)
    schema = json.loads((REPOSITORY / "docs/schema/ranking-1.schema.json").read_text())
    jsonschema.validate(found, schema)
    return found


def of_pid(found: Ranking, pid: int) -> dict[str, Any] | None:
    rows = [one for one in found["processes"] if one["pid"] == pid]
    assert len(rows) < 2
    return rows[0] if rows else None


@contextmanager
def growers(compiled: Compiler, count: int) -> Iterator[list[Target]]:
    program = compiled("grower.c")
    targets = [Target([program]) for _ in range(count)]
    try:
        for target in targets:
            target.await_ready().do("grow 1")
        yield targets
    finally:
        for target in targets:
            target.__exit__(None, None, None)


def is_about(found_bytes: int, bytes_: int) -> bool:
    return abs(found_bytes - bytes_) <= INEXACT_BYTES


def test_the_one_that_leaks_is_first_among_idle_ones(compiled: Compiler) -> None:
    with growers(compiled, 4) as targets, Ranker(NEVER).await_started() as ranker:
        (before, _) = targets[2].do("grow 1")
        (held_bytes, held_pages) = targets[2].do("grow 20000")
        targets[1].do("grow 2000")
        found = ranker.final()
    rows = [one for one in found["processes"] if one["pid"] in {t.pid for t in targets}]
    assert [one["pid"] for one in rows] == [targets[2].pid, targets[1].pid]
    first = rows[0]
    grown_bytes = held_bytes - PAGE
    assert is_about(first["growth_bytes"], grown_bytes), before
    assert is_about(first["growth"]["anonymous_bytes"], grown_bytes)
    assert first["growth"]["file_bytes"] < FEW_PAGES * PAGE
    assert first["growth"]["shared_bytes"] == first["growth"]["besides_bytes"] == 0
    assert held_pages - 1 <= first["new_pages"] < held_pages + FEW_PAGES
    per_minute = first["growth_bytes"] * 60 / first["watched_s"]
    assert first["growth_bytes_per_minute"] == pytest.approx(per_minute, rel=0.05)
    assert not first["is_new"]
    assert found["losses"] == {"new_pages": 0, "ended_commands": 0}
    assert found["notes"] == []


def test_growth_since_the_previous_report(compiled: Compiler) -> None:
    with growers(compiled, 1) as (target,), Ranker("0.5").await_started() as ranker:
        target.do("grow 3000")
        while (first := of_pid(ranker.next_ranking(), target.pid)) is None:
            pass
        assert is_about(first["growth_bytes"], 3000 * PAGE)
        quiet = of_pid(ranker.next_ranking(), target.pid)
        assert quiet is not None
        assert quiet["since_previous_bytes"] == 0
        assert quiet["new_pages_per_s"] < FEW_PAGES
        assert quiet["growth_bytes"] == first["growth_bytes"]
        target.do("drop")
        while of_pid(ranker.next_ranking(), target.pid) is not None:
            pass  # what was freed is no growth


def test_shared_memory_grows_too(compiled: Compiler) -> None:
    with growers(compiled, 1) as (target,), Ranker(NEVER).await_started() as ranker:
        target.do("share 3000")
        row = of_pid(ranker.final(), target.pid)
    assert row is not None
    assert is_about(row["growth"]["shared_bytes"], 3000 * PAGE)
    assert is_about(row["growth_bytes"], 3000 * PAGE)


def test_children_that_end_between_two_reports(compiled: Compiler, tmp_path: Path) -> None:
    """By the name that only they have."""
    program = tmp_path / "short-lived"
    shutil.copy(compiled("grower.c"), program)
    with Target([program]) as target:
        target.await_ready()
        with Ranker(NEVER).await_started() as ranker:
            target.do("children 300")
            found = ranker.final()
    (ended,) = [one for one in found["ended"]["commands"] if one["command"] == "short-lived"]
    assert ended["count"] == 300
    assert 300 * CHILD_PAGES <= ended["new_pages"] < 300 * (CHILD_PAGES + FEW_PAGES)
    assert found["ended"]["count"] >= 300
    assert found["ended"]["new_pages"] >= ended["new_pages"]


def test_a_process_that_ends_is_left_out_and_counted(compiled: Compiler) -> None:
    with growers(compiled, 2) as (one, other), Ranker("0.5").await_started() as ranker:
        (held_bytes, _) = one.do("grow 5000")
        while of_pid(ranker.next_ranking(), one.pid) is None:
            pass
        one.end()
        other.end()
        while of_pid(found := ranker.next_ranking(), one.pid) is not None:
            pass
        assert found["ended"]["count"] >= 2
        assert found["ended"]["held_bytes"] >= held_bytes - INEXACT_BYTES


def test_an_idle_process_that_is_killed_is_counted(compiled: Compiler, tmp_path: Path) -> None:
    """It touches no page between the start of the ranking and its end."""
    program = tmp_path / "does-nothing"
    shutil.copy(compiled("grower.c"), program)
    pages = open_new_pages()
    try:
        with Target([program]) as target:
            target.await_ready()
            pages.expect([target.pid])
            target.process.kill()
            target.process.wait()
            counts = pages.read()
    finally:
        pages.close()
    assert [one.count for one in counts.ended if one.command == program.name] == [1]
    assert target.pid not in counts.running


def test_a_program_that_starts_meanwhile_counts_from_its_start(compiled: Compiler) -> None:
    with Ranker(NEVER).await_started() as ranker, growers(compiled, 1) as (target,):
        (held_bytes, _) = target.do("grow 4000")
        found = ranker.final()
    row = of_pid(found, target.pid)
    assert row is not None
    assert row["is_new"]
    assert held_bytes - INEXACT_BYTES <= row["growth_bytes"]
    assert row["growth_bytes"] <= held_bytes + INEXACT_BYTES + FEW_PAGES * PAGE
    assert row["watched_s"] == pytest.approx(row["age_s"], abs=0.1)
    assert found["started_count"] >= 1


def test_a_fork_is_not_charged_with_what_its_parent_held(compiled: Compiler) -> None:
    with growers(compiled, 1) as (target,):
        target.do("grow 20000")
        with Ranker("0.5").await_started() as ranker:
            (child, _) = target.do("fork")
            first, second = ranker.next_ranking(), ranker.next_ranking()
    for found in (first, second):
        row = of_pid(found, child)
        assert row is None or row["growth_bytes"] < FEW_PAGES * PAGE


def test_a_pid_that_is_used_again_is_another_process(compiled: Compiler) -> None:
    last_pid = Path("/proc/sys/kernel/ns_last_pid")
    if not last_pid.exists():
        pytest.skip("this kernel can't choose the next pid (CONFIG_CHECKPOINT_RESTORE)")
    program = compiled("grower.c")
    with Target([program]) as old:
        old.await_ready().do("grow 8000")
        with Ranker("0.5").await_started() as ranker:
            ranker.next_ranking()
            old.end()
            new = _with_pid(old.pid, program, last_pid)
            with new:
                (held_bytes, _) = new.await_ready().do("grow 3000")
                while not (row := of_pid(ranker.next_ranking(), new.pid) or {}).get("is_new"):
                    assert not row, "the old process had not grown"
                for _ in range(2):
                    row = of_pid(ranker.next_ranking(), new.pid) or {}
                assert row["growth_bytes"] >= held_bytes - INEXACT_BYTES
                assert row["growth_bytes"] < held_bytes + INEXACT_BYTES + FEW_PAGES * PAGE
                assert 3000 <= row["new_pages"] < 3000 + 2 * FEW_PAGES


def _with_pid(pid: int, program: Path, last_pid: Path) -> Target:
    """A process with this pid, which is free. Others take pids meanwhile: several attempts."""
    for _ in range(200):
        last_pid.write_text(str(pid - 1))
        new = Target([program])
        if new.pid == pid:
            return new
        new.__exit__(None, None, None)
    pytest.fail(f"no process got the pid {pid}")


def test_counters_that_find_no_room_are_counted() -> None:
    """Processes beyond the capacity of the map."""
    pages = open_new_pages(capacity=1)
    try:
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
        counts = pages.read()
    finally:
        pages.close()
    assert counts.lost_faults > 0
    assert len(counts.running) <= 1


@pytest.mark.alone("the process that grows most on the machine is named")
def test_the_text_names_the_process_and_the_next_step(compiled: Compiler) -> None:
    with growers(compiled, 1) as (target,), Tracer("--all-processes", "-v", NEVER) as ranker:
        ranker.stderr.until(lambda line: "ranking" in line)
        target.do("grow 50000")
        outcome = ranker.stop()
    assert outcome.exit_code == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    (verdict,) = [line for line in lines if line.startswith("growing most:")]
    assert f"pid {target.pid}" in verdict
    assert "+195.3 MiB" in verdict
    assert any(line.endswith(f"leaktrace -p {target.pid}") for line in lines)
    assert any(line.startswith("machine: ") for line in lines)
    assert any(line.startswith("cost: ") for line in lines)
    assert "lost: nothing" in lines


def as_nobody(capabilities: Sequence[str], *arguments: str) -> Outcome:
    python, environment = anybodys_python()
    settings = [f"{name}={value}" for name, value in environment.items()]
    command = [*nobody_with(capabilities), "env", *settings, python, "-m", "leaktrace", *arguments]
    with Tracer(command=command) as tracer:
        return tracer.finish()


@pytest.mark.may_skip("not every machine has a Python that the user nobody can run")
def test_without_privileges_it_ranks_and_says_what_is_missing(
    require_tool: Callable[[str], str],
) -> None:
    require_tool("setpriv")
    outcome = as_nobody([], "--all-processes", "-f", "json", "0.2", "1")
    assert outcome.exit_code == 0, outcome.stderr
    found = ranking(outcome.stdout)
    assert found["process_count"] > 1
    (note,) = found["notes"]
    assert "new pages are not counted" in note
    assert found["ended"]["new_pages"] is None
    assert found["losses"] == {}
    assert all(one["new_pages"] is None for one in found["processes"])


@pytest.mark.may_skip("not every machine has a Python that the user nobody can run")
def test_two_capabilities_are_enough(require_tool: Callable[[str], str]) -> None:
    require_tool("setpriv")
    outcome = as_nobody(["bpf", "perfmon"], "--all-processes", "-f", "json", "0.2", "1")
    assert outcome.exit_code == 0, outcome.stderr
    found = ranking(outcome.stdout)
    assert found["notes"] == []
    assert found["ended"]["new_pages"] is not None
    assert found["process_count"] > 1


def test_in_a_pid_namespace_no_pages_are_counted(require_tool: Callable[[str], str]) -> None:
    prefix = [require_tool("unshare"), "--pid", "--fork", "--mount-proc", "--kill-child"]
    outcome = run_leaktrace("--all-processes", "-f", "json", "0.2", "1", prefix=prefix)
    assert outcome.exit_code == 0, outcome.stderr
    found = ranking(outcome.stdout)
    (note,) = found["notes"]
    assert "PID namespace" in note
    assert found["process_count"] == 0  # leaktrace itself is left out
