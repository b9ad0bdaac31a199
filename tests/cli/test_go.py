"""`leaktrace go` on running programs, and its errors."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.goroutines import await_file, running, started
from harness.privileges import nobody_with
from harness.tracer import Tracer, run_leaktrace

Object = dict[str, Any]


def reports_of(pid: int, *words: str) -> list[Object]:
    outcome = run_leaktrace("go", "-p", str(pid), *words, "-f", "json")
    assert outcome.exit_code == 0, outcome.stderr
    return [json.loads(line) for line in outcome.stdout.splitlines()]


def test_the_leak_is_named_and_nothing_else(go_program: Callable[[str], Path]) -> None:
    with running(go_program("debian"), "leak") as (pid, _):
        reports = reports_of(pid, "0.3", "4")
    last = reports[-1]
    assert [one["number"] for one in reports] == [1, 2, 3, 4]
    assert reports[0]["verdict"] == "too_early"
    assert last["verdict"] == "leaking"
    assert last["go"]["version"].startswith("go1.")
    (leak,) = [one for one in last["goroutines"] if one["verdict"] == "leaking"]
    assert leak["created_by"]["function"] == "main.churn"
    assert leak["wait_reason"] == "chan receive"
    assert "main.forgotten" in [frame["function"] for frame in leak["frames"]]
    assert leak == last["goroutines"][0]
    # It begins one every 10 ms, or as fast as a busy machine lets it.
    assert 0 < leak["growth_per_s"] <= 101


def test_short_lived_goroutines_are_no_leak(go_program: Callable[[str], Path]) -> None:
    with running(go_program("debian"), "turnover") as (pid, _):
        reports = reports_of(pid, "0.15", "12")
    assert len(reports) == 12
    assert not [one for one in reports if one["leaking_group_count"]]
    last = reports[-1]
    (answered,) = [
        one
        for one in last["goroutines"]
        if one["wait_reason"] == "sleep"
        and "main.answered" in [frame["function"] for frame in one["frames"]]
    ]
    assert answered["verdict"] == "turnover"


def test_text_names_creator_and_place(go_program: Callable[[str], Path]) -> None:
    with running(go_program("debian-pie"), "many", "300") as (pid, count):
        outcome = run_leaktrace("go", "-p", str(pid), "-T", "1")
    assert outcome.exit_code == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert f"{count:,} goroutines" in outcome.stdout
    assert "300 in chan receive" in outcome.stdout
    assert "main.receives" in outcome.stdout
    assert "by main.main at" in outcome.stdout


def test_without_privileges(go_program: Callable[[str], Path]) -> None:
    with running(go_program("debian"), "many", "10") as (pid, _):
        outcome = run_leaktrace("go", "-p", str(pid), prefix=nobody_with())
    assert outcome.exit_code != 0
    assert "CAP_" in outcome.stderr or "root" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_process_that_is_not_of_go() -> None:
    outcome = run_leaktrace("go", "-p", str(os.getpid()))
    assert outcome.exit_code != 0
    assert "is not a Go program" in outcome.stderr
    assert "hint: leaktrace -p PID" in outcome.stderr


def test_the_heap_that_is_never_collected(go_heap_profile: Callable[[str], Path]) -> None:
    """task() keeps twice as much as conf(), both by an inlined function."""
    program = go_heap_profile("debian")
    with started(program, "grow", env={"GOGC": "off"}) as pid:
        while reports_of(pid)[0]["heap"]["in_use_bytes"] < 150 << 20:
            pass
        first, last = (one["heap"] for one in reports_of(pid, "0.2", "2"))
        outcome = run_leaktrace("go", "-p", str(pid))
    assert outcome.exit_code == 0, outcome.stderr
    assert "GOGC=off: never collected" in outcome.stdout
    assert max(map(len, outcome.stdout.splitlines())) <= 80
    assert (last["gc_percent"], last["gc_count"]) == (-1, 0)
    assert last["growth_bytes"] > 0
    assert first["growth_bytes"] is not None
    sizes = {one["object_bytes"]: one for one in last["sizes"]}
    assert abs(sizes[64 << 10]["count"] - sizes[128 << 10]["count"]) <= 1
    assert sizes[128 << 10]["growth_bytes"] > 0
    in_use = dict.fromkeys(("main.conf", "main.task"), 0)
    for site in last["profile"]["sites"]:
        names = [frame["function"] for frame in site["frames"]]
        for name in in_use:
            if name in names:
                assert names[0] in ("main.inlined", name)  # the list of what is kept grows, too
                in_use[name] += site["in_use_bytes"]
    # 150 MiB are some 300 samples: the error of each sum is about a tenth.
    assert 1.2 < in_use["main.task"] / in_use["main.conf"] < 3.3
    assert 0.7 < sum(in_use.values()) / last["in_use_bytes"] < 1.4


def test_where_memory_is_allocated(go_refills: Callable[[str], Path], tmp_path: Path) -> None:
    """task() allocates twice as much as conf(), and the runtime keeps no profile."""
    truth = tmp_path / "truth"
    with started(go_refills("debian-pie"), "large", str(truth)) as pid:
        with Tracer("go", "-p", str(pid), "--go-sample-refills", "0.5", "-f", "json") as tracer:
            tracer.stdout.next()
            os.kill(pid, signal.SIGUSR1)
            told = json.loads(await_file(truth))
            traced = tracer.stop(signal.SIGINT)
        outcome = run_leaktrace("go", "-p", str(pid), "--go-sample-refills", "0.2", "1")
    assert traced.exit_code == 0
    last = json.loads(traced.stdout.splitlines()[-1])
    refills = last["heap"]["refills"]
    assert last["heap"]["profile"] is None
    sites = refills["sites"][:2]
    assert [site["frames"][0]["function"] for site in sites] == ["main.task", "main.conf"]
    task, conf = (site["allocated_bytes"] for site in sites)
    assert 1.8 < task / conf < 2.2
    assert all(site["is_complete"] and site["source"] == "refills" for site in sites)
    # Beneath them, the collector may have begun, and allocated something itself.
    assert all(site["object_bytes"] is None for site in sites)
    # It is above the limit of stacks per second: some samples stand for others.
    assert refills["allocated_bytes"] == pytest.approx(told["total"], rel=0.1)
    assert refills["runtime_allocated_bytes"] == pytest.approx(told["total"], rel=0.01)
    assert refills["lost_count"] == refills["unknown_count"] == 0
    assert outcome.exit_code == 0
    assert "shows what is allocated, not what is still in use" in outcome.stdout
    assert "nothing was sampled yet" in outcome.stdout
    assert "two probes are set in the allocator" in outcome.stderr
    assert max(map(len, outcome.stdout.splitlines())) <= 80


def test_a_program_with_a_profile_is_not_probed(go_heap_profile: Callable[[str], Path]) -> None:
    with started(go_heap_profile("debian"), "grow") as pid:
        outcome = run_leaktrace("go", "-p", str(pid), "--go-sample-refills", "0.2", "1", "-fjson")
    assert outcome.exit_code == 0
    assert "nothing is probed" in outcome.stderr
    heap = json.loads(outcome.stdout)["heap"]
    assert heap["refills"] is None
    assert heap["profile"] is not None


def test_probes_need_privileges(go_refills: Callable[[str], Path], tmp_path: Path) -> None:
    with started(go_refills("debian"), "large", str(tmp_path / "truth")) as pid:
        words = ("go", "-p", str(pid), "--go-sample-refills", "0.2", "1")
        outcome = run_leaktrace(*words, prefix=nobody_with(["sys_ptrace"]))
    assert outcome.exit_code == 3
    assert "CAP_BPF" in outcome.stderr
    assert "hint: run as root" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not outcome.stdout


def test_samples_need_time_and_one_way() -> None:
    for words, message in (
        (("--go-sample-refills",), "give an interval: leaktrace go -p PID --go-sample-refills 5"),
        (("--go-sample-refills", "--go-enable-profile", "5"), "give one of them"),
        (("--go-sample-refills", "-f", "pprof", "5"), "its samples are in reports"),
    ):
        outcome = run_leaktrace("go", "-p", str(os.getpid()), *words)
        assert outcome.exit_code == 2
        assert message in outcome.stderr
