"""-p of a Go program: goroutines and heap beside what malloc holds; or instead, without malloc."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.compiling import PROGRAMS, Compiler
from harness.go_programs import build_go_program
from harness.goroutines import running
from harness.tracer import run_leaktrace

pytestmark = pytest.mark.usefixtures("require_bpf")


@contextmanager
def leaking(program: Path, ways: str) -> Iterator[int]:
    with subprocess.Popen([program, ways], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("go") / "three_leaks"
    return build_go_program(path, source=PROGRAMS / "go_three_leaks.go")


def test_all_three_leaks_in_one_report(program: Path, tmp_path: Path) -> None:
    recording = tmp_path / "run"
    with leaking(program, "goroutines,C,heap") as pid:
        outcome = run_leaktrace(
            *("-p", str(pid), "-f", "json", "-o", "0", "--record", recording, "0.5", "10")
        )
    assert outcome.exit_code == 0, outcome.stderr
    last = json.loads(outcome.stdout.splitlines()[-1])
    (go,) = last["go"]
    assert (go["pid"], go["verdict"], go["problem"]) == (pid, "leaking", "")
    (stuck,) = go["leaking"]
    assert stuck["created_by"]["function"] == "main.serve"
    assert stuck["started_as"]["function"] == "main.stuck"
    assert go["goroutine_count"] in (stuck["count"] + 1, stuck["count"] + 2)  # one is just begun
    heap = go["heap"]
    assert (heap["gc_percent"], heap["collections"]) == (-1, 0)
    assert heap["growth_bytes"] >= 19_000 * heap["growth_count"] / 3  # beside its goroutines
    # Each tick begins a goroutine, and then keeps a block of C.
    (site,) = [one for one in last["sites"] if "keep" in one["frames"][0]["function"]]
    assert site["bytes"] == 3000 * site["count"]
    assert 0 < site["count"] <= stuck["count"] + 2
    shown = " ".join(run_leaktrace("show", recording).stdout.split())
    assert "GOROUTINES LEAK +" in shown
    assert "go main.stuck by main.serve go_three_leaks.go:" in shown
    assert "GO HEAP GROWS +" in shown
    assert heap["verdict"]["kind"] == "growing"
    assert heap["verdict"]["bytes_per_s"] == pytest.approx(heap["growth_bytes_per_s"], rel=0.3)
    assert "GOGC=off: never collected" in shown


def test_each_of_the_leaks_counts_for_the_exit_status(program: Path) -> None:
    for ways, said in (("goroutines", "goroutines pile up"), ("heap", "the heap of Go grows")):
        with leaking(program, ways) as pid:
            outcome = run_leaktrace("-p", str(pid), "--exit-code", "leak", "0.5", "8")
        assert outcome.exit_code == 23, outcome.stderr
        assert f"{said}: exit status 23" in outcome.stderr


def noted(report: dict[str, Any]) -> str:
    """The notes of a report in which nothing else is said of Go."""
    assert "go" not in report or report["go"] == []
    return "\n".join(report["target"]["notes"])


def test_memory_that_must_not_be_read(program: Path, compiled: Compiler) -> None:
    """The report says that it is a Go program, and why its goroutines are not shown."""
    number_of_process_vm_readv = "310"
    refused = [str(compiled("without_call.c")), number_of_process_vm_readv]
    with leaking(program, "goroutines,C") as pid:
        outcome = run_leaktrace("-p", str(pid), "-f", "json", "0.5", "2", prefix=refused)
        text = run_leaktrace("-p", str(pid), "0.5", "1", prefix=refused)
    assert outcome.exit_code == text.exit_code == 0, outcome.stderr
    for line in outcome.stdout.splitlines():
        report = json.loads(line)
        said = noted(report)
        assert f"goroutines and heap of process {pid} (go1" in said
        assert "memory" in said
        assert "CAP_SYS_PTRACE" in said
        assert report["sites"]
    assert f"goroutines and heap of process {pid} (go1" in " ".join(text.stdout.split())


def test_a_version_of_go_that_is_not_looked_at(program: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    whole = program.read_bytes()
    at = whole.index(b"\xff Go buildinf:")
    changed = re.sub(rb"go1\.\d\d", b"go1.17", whole[at : at + 64])
    assert changed != whole[at : at + 64]
    old.write_bytes(whole[:at] + changed + whole[at + 64 :])
    old.chmod(0o755)
    with leaking(old, "C") as pid:
        outcome = run_leaktrace("-p", str(pid), "-f", "json", "0.5", "1")
    assert outcome.exit_code == 0, outcome.stderr
    said = noted(json.loads(outcome.stdout.splitlines()[-1]))
    assert "goroutines are not shown" in said
    assert "older than 1.18" in said
    assert "go1.17" in said


def test_of_many_processes_some_are_looked_at(program: Path) -> None:
    with ExitStack() as running:
        pids = [running.enter_context(leaking(program, "C")) for _ in range(9)]
        outcome = run_leaktrace("-p", ",".join(map(str, pids)), "-f", "json", "0.5", "1")
    assert outcome.exit_code == 0, outcome.stderr
    report = json.loads(outcome.stdout.splitlines()[-1])
    assert {one["pid"] for one in report["go"]} == set(pids[:8])
    assert any("8 processes were looked at, 1 more" in note for note in report["target"]["notes"])


def test_without_malloc_there_is_what_go_has(tmp_path: Path) -> None:
    source = PROGRAMS / "goroutines.go"
    pure = build_go_program(tmp_path / "pure", source=source, env={"CGO_ENABLED": "0"})
    with running(pure, "leak") as (pid, _):
        outcome = run_leaktrace("-p", str(pid), "-f", "json", "0.3", "4")
        refused = run_leaktrace("-p", str(pid), "-f", "pprof", "--output", "/dev/null", "0.3", "1")
        known = tmp_path / "known.supp"
        known.write_text("leak:main\n")
        suppressing = run_leaktrace("-p", str(pid), "--suppressions", str(known), "0.3", "1")
        heap = run_leaktrace("heap", "-p", str(pid))
        status = run_leaktrace("-p", str(pid), "--exit-code", "leak=42", "0.3", "4")
    assert outcome.exit_code == 0, outcome.stderr
    reports = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [one["schema"] for one in reports] == ["leaktrace/go/1"] * 4
    assert reports[-1]["verdict"] == "leaking"
    assert status.exit_code == 42
    assert "goroutines pile up: exit status 42" in status.stderr
    assert heap.exit_code == 4
    assert f"leaktrace go -p {pid} shows it" in heap.stderr
    assert "whose allocator is Go's own" in outcome.stderr
    assert "follow instead" in outcome.stderr
    # Suppressions have no effect on goroutines: they must not seem to.
    assert suppressing.exit_code != 0
    assert suppressing.stdout == ""
    assert refused.exit_code != 0
    assert f"leaktrace go -p {pid}" in refused.stderr
