"""The verdict of `leaktrace go` on heaps that are collected, against the programs' own account."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.goroutines import Builder, builder, started
from harness.tracer import run_leaktrace

Object = dict[str, Any]
SIZE_CLASS = 20480 / 20000  # what a block of the program takes up in Go


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return builder(tmp_path_factory.mktemp("kept"), "go_kept.go")


def kept_per_s(account: Path) -> float:
    """How much the program has kept in each second, as it says itself."""
    lines = [line.split() for line in account.read_text().splitlines() if line.count(" ") == 1]
    (first_ns, first), (last_ns, last) = ((int(a), int(b)) for a, b in (lines[0], lines[-1]))
    return (last - first) / (last_ns - first_ns) * 1e9


@pytest.mark.parametrize("build", ["debian", "newest"])
def test_a_heap_that_leaks_grows_as_fast_as_the_program_says(
    kept: Callable[[str], Path], build: str, tmp_path: Path
) -> None:
    account = tmp_path / "account"
    with started(kept(build), "leak", str(account)) as pid:
        words = ("go", "-p", str(pid), "-f", "json", "--exit-code", "leak", "0.4", "14")
        outcome = run_leaktrace(*words)
        per_s = kept_per_s(account)
    assert outcome.exit_code == 23, outcome.stderr
    assert "the heap of Go grows: exit status 23" in outcome.stderr
    reports = [json.loads(line) for line in outcome.stdout.splitlines()]
    verdicts = [one["heap"]["verdict"] for one in reports]
    assert verdicts[0]["kind"] == "too_early"
    assert {one["kind"] for one in verdicts} == {"too_early", "growing"}
    last = verdicts[-1]
    assert last["kind"] == "growing"
    assert last["bytes_per_s"] == pytest.approx(per_s * SIZE_CLASS, rel=0.25)
    assert 0 < last["error_bytes_per_s"] < last["bytes_per_s"] / 2
    assert reports[-1]["verdict"] != "leaking"  # its goroutines
    # Its profile is off. There is more garbage than is kept, of another size.
    assert reports[-1]["heap"]["grown_most"]["object_bytes"] == 20480


@pytest.mark.parametrize("what", ["cache", "batches"])
def test_what_is_dropped_again_is_no_leak(kept: Callable[[str], Path], what: str) -> None:
    with started(kept("debian"), what) as pid:
        words = ("go", "-p", str(pid), "-f", "json", "--exit-code", "leak", "0.4", "14")
        outcome = run_leaktrace(*words)
    assert outcome.exit_code == 0, outcome.stderr
    kinds = [json.loads(line)["heap"]["verdict"]["kind"] for line in outcome.stdout.splitlines()]
    assert "growing" not in kinds
    if what == "cache":
        assert kinds[-1] == "steady"


def test_a_leak_slower_than_the_threshold_does_not_count(
    kept: Callable[[str], Path], tmp_path: Path
) -> None:
    with started(kept("debian"), "leak", str(tmp_path / "account")) as pid:
        threshold = ("--leak-threshold", "1G")
        words = ("go", "-p", str(pid), "--exit-code", "leak=9", *threshold, "0.4", "12")
        outcome = run_leaktrace(*words)
    assert outcome.exit_code == 0, outcome.stderr
    assert "HEAP GROWS +" in outcome.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--exit-code", "leak"), "needs several looks"),
        (("--exit-code", "child", "1"), "takes own, leak, or leak=STATUS"),
        (("--leak-threshold", "1K", "1"), "needs --exit-code leak"),
    ],
)
def test_what_can_not_be_asked(words: tuple[str, ...], said: str) -> None:
    outcome = run_leaktrace("go", "-p", "1", *words)
    assert outcome.exit_code == 2
    assert said in outcome.stderr
