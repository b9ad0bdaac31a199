"""--lost: what is said about each block is what the program knows of it."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from harness.compiling import Compiler
from harness.families import OFTEN, await_report, await_traced, last_report
from harness.reports import Report, Site
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, REPOSITORY, Tracer, run_leaktrace

from leaktrace.targets.pause import Pause

pytestmark = [
    pytest.mark.usefixtures("require_bpf"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="registers are known on x86-64 only"),
]

CLASSES = ("definite", "indirect", "possible", "reachable")
LOST = ("--lost", *OFTEN)
Counts = tuple[int, ...]


@pytest.fixture
def program(compiled: Compiler) -> Path:
    return compiled("lost.c")


def truths(lines: Iterable[str]) -> dict[str, Counts]:
    """By function, what the program says: how many blocks of each class."""
    words = [line.split() for line in lines if line.startswith("truth ")]
    return {name: tuple(int(one) for one in counts) for _, name, *counts in words}


def counts(site: Site) -> Counts:
    """The same of a site. Those that are indirectly lost are its own here, whoever leads to
    them."""
    lost = site.raw.get("lost")
    if lost is None:  # not from malloc
        return (0,) * len(CLASSES)
    others = {kind: lost[f"{kind}_count"] for kind in ("definite", "possible", "reachable")}
    others["indirect"] = lost["scanned_count"] - sum(others.values())
    return tuple(others[kind] for kind in CLASSES)


def counts_under(report: Report, function: str) -> Counts:
    return tuple(sum(each) for each in zip(*map(counts, report.sites_under(function)), strict=True))


def compare(report: Report, lines: Sequence[str], times: int = 1) -> None:
    """`times`: how many processes have done the same."""
    expected = {name: tuple(times * one for one in each) for name, each in truths(lines).items()}
    assert expected
    assert {name: counts_under(report, name) for name in expected} == expected
    for site in report.sites:
        for place, kind in enumerate(CLASSES):
            if kind in site.functions:
                assert counts(site)[place] == site.total.count, (site.functions, counts(site))
    lost = {name for name, each in expected.items() if each[0]}
    leaking = {
        name
        for name in expected
        for site in report.sites_under(name)
        if site.raw["verdict"] is not None and site.raw["verdict"]["kind"] == "leak"
    }
    assert leaking == lost
    # What is led to counts with what leads to it.
    sums = {
        name: sum(
            site.raw["lost"]["indirect_count"]
            for site in report.sites_under(name)
            if "lost" in site.raw
        )
        for name in expected
    }
    assert sums == {name: each[1] for name, each in expected.items()}
    verdict = report.raw["verdict"]
    assert (verdict["kind"] == "leak") == bool(lost)
    assert verdict.get("lost_count", 0) == sum(sum(each[:2]) for each in expected.values())


def reach(report: Report) -> dict[str, Any]:
    found: dict[str, Any] = report.raw["reach"]
    assert found["problems"] == []
    assert report.raw["lost_then_freed"] == found["lost_then_freed"]
    return found


def only(report: Report, function: str) -> Site:
    (site,) = report.sites_under(function)
    return site


def kind_of(site: Site) -> str | None:
    return None if site.raw["verdict"] is None else site.raw["verdict"]["kind"]


def untraced(program: Path, *commands: str) -> list[str]:
    with Target([program]) as target:
        target.await_ready()
        for command in commands:
            target.do(command)
        return target.run_out()[0]


@pytest.mark.parametrize(
    ("source", "commands", "stop"),
    [
        ("lost.c", ("threads", "all"), ()),
        ("lost.c", ("vector", "threads", "all"), ("--stop",)),
        ("lost.c", ("ended",), ()),
        ("lost.c", ("ended",), ("--stop",)),
        ("lost_objects.cpp", ("go",), ()),
    ],
)
def test_a_running_process(
    compiled: Compiler, source: str, commands: tuple[str, ...], stop: tuple[str, ...]
) -> None:
    program = compiled(source)
    with Target([program]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), "--lost", *stop, *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            for command in commands:
                target.do(command)
            report = last_report(tracer)
        lines, status = target.run_out()
    assert status == 0
    compare(report, lines)
    assert (reach(report)["passes"] == 1) == bool(stop)
    assert (reach(report)["pause_ms"] is not None) == bool(stop)
    assert reach(report)["unread_bytes"] == 0
    assert lines == untraced(program, *commands)


@pytest.mark.parametrize("source", ["lost.c", "lost_objects.cpp"])
def test_a_command_as_it_exits(compiled: Compiler, source: str, tmp_path: Path) -> None:
    program, output = compiled(source), tmp_path / "reports"
    options = ("--lost", *ONE_REPORT, "--output", output, "--exit-code", "child")
    is_c = source == "lost.c"
    argv = [str(program), "all"] if is_c else [str(program)]
    outcome = run_leaktrace(*options, "--", *argv)
    assert outcome.exit_code == 0, outcome.stderr
    assert "Traceback" not in outcome.stderr
    (line,) = output.read_text().splitlines()
    compare(Report(line), outcome.stdout.splitlines())
    assert reach(Report(line))["passes"] == 1
    with Target(argv) as target:
        assert (outcome.stdout.splitlines(), 0) == target.run_out()


def test_a_command_with_threads_as_it_exits(program: Path, tmp_path: Path) -> None:
    output = tmp_path / "reports"
    outcome = run_leaktrace("--lost", *ONE_REPORT, "--output", output, "--", program, "threads")
    assert outcome.exit_code == 0, outcome.stderr
    compare(Report(output.read_text()), outcome.stdout.splitlines())


def test_what_only_free_memory_points_to(compiled: Compiler, tmp_path: Path) -> None:
    output = tmp_path / "reports"
    program = compiled("lost_in_free_memory.c")
    outcome = run_leaktrace("--lost", *ONE_REPORT, "--output", output, "--", program)
    count, size = map(int, outcome.stdout.split())
    report = Report(output.read_text())
    found = reach(report)["lost"]
    assert (found["definite_count"], found["definite_bytes"]) == (count, size)
    assert found["scanned_count"] == count


def test_a_command_that_loses_nothing_has_a_verdict_however_short_it_is(tmp_path: Path) -> None:
    output = tmp_path / "reports"
    options = ("--lost", "--exit-code", "leak", *ONE_REPORT, "--output", output)
    outcome = run_leaktrace(*options, "--", "true")
    assert outcome.exit_code == 0, outcome.stderr
    assert "no report had a verdict" not in outcome.stderr
    verdict = Report(output.read_text()).raw["verdict"]
    assert (verdict["kind"], verdict["reason"]) == ("steady", "nothing is lost")


def test_with_a_stop_all_blocks_of_the_heap_are_known(compiled: Compiler) -> None:
    """Older ones, of which some are lost, and freed ones, which hold nothing."""
    with Target([compiled("lost_around.c")]) as target:
        target.await_ready()
        options = ("-p", str(target.pid), "--lost", "--older", "0", *ONE_REPORT)
        with Tracer(*options, "--stop", "-s", "1", NEVER) as tracer:
            tracer.await_armed()
            target.do()
            report = last_report(tracer)
        lines, status = target.run_out()
    assert (report.raw["reach"]["heap_is_known"], report.raw["reach"]["problems"]) == (True, [])
    expected = truths(lines)
    assert {name: counts_under(report, name) for name in expected} == expected
    assert status == 0


def test_a_look_without_the_stop_that_was_asked_for(compiled: Compiler) -> None:
    """As good as without --stop, and the report says why."""
    with Target([compiled("bench_lost.c"), "1000", "300"]) as target:
        target.await_ready()
        options = ("-p", str(target.pid), "--lost", "--stop", *ONE_REPORT, NEVER)
        with Tracer(*options, "--max-pause-ms", "15") as tracer:
            tracer.await_armed()
            target.do()
            reports = [last_report(tracer)]
        with Pause(target.pid, 60_000), Tracer(*options) as tracer:
            tracer.await_armed()
            (gdb,) = {
                int(line.split()[1])
                for line in Path(f"/proc/{target.pid}/status").read_text().splitlines()
                if line.startswith("TracerPid")
            }
            reports.append(last_report(tracer))
        target.do()
    late, refused = (report.raw["reach"] for report in reports)
    assert late["problems"] == [
        f"process {target.pid} was looked at without a stop: 15 ms were not enough (--max-pause-ms)"
    ]
    assert late["lost"]["definite_count"] + late["lost"]["indirect_count"] == 1000 // 50
    assert (late["passes"], late["pause_ms"] > 0) == (3, True)
    (problem,) = refused["problems"]
    assert f"(process {gdb}) is attached to it" in problem
    assert refused["pause_ms"] is None


def test_the_same_as_leak_sanitizer(compiled: Compiler, tmp_path: Path) -> None:
    """It sees the same program from inside, at the same moment."""
    source, output = "lost_in_free_memory.c", tmp_path / "reports"
    inside = subprocess.run(
        [compiled(source, "-fsanitize=leak")], capture_output=True, text=True, check=False
    )
    summary = re.search(r"(\d+) byte\(s\) leaked in (\d+) allocation", inside.stderr)
    assert summary is not None, inside.stderr
    outside = run_leaktrace("--lost", *ONE_REPORT, "--output", output, "--", compiled(source))
    assert outside.exit_code == 0, outside.stderr
    verdict = Report(output.read_text()).raw["verdict"]
    assert (verdict["lost_bytes"], verdict["lost_count"]) == tuple(map(int, summary.groups()))


def test_the_example_of_the_readme(tmp_path: Path) -> None:
    program = tmp_path / "lost"
    source = REPOSITORY / "examples/lost.c"
    subprocess.run(["gcc", "-O2", "-g", source, "-o", program], check=True)
    with Target([program]) as target:
        outcome = run_leaktrace("--lost", "-p", str(target.pid), "2", "1")
    assert outcome.exit_code == 0, outcome.stderr
    text = re.sub(r"\d[\d,.]*", "N", outcome.stdout)
    assert "LEAK of N blocks (N KiB) at begin_session lost.c:N" in text
    first, second, *others = re.split(r"\n(?=  \S+(?: \S+)* +N KiB +N%)", text)[1:]
    assert "nothing points to any of its N blocks (N KiB), and only they lead to" in first
    assert "fail_login" in first
    assert "only lost blocks point to its N blocks" in second
    assert "fail_login" in second
    assert not any("fail_login" in other or "leak " in other for other in others)
    assert "definitely lost, N indirectly, N reachable; read N KiB in N s and N passes" in " ".join(
        text.split()
    )


def test_a_command_that_a_signal_kills(program: Path, tmp_path: Path) -> None:
    """Nothing stops it first."""
    output, killed = tmp_path / "reports", ("sh", "-c", "kill -9 $$")
    outcome = run_leaktrace("--lost", *ONE_REPORT, "--output", output, "--", *killed)
    assert outcome.exit_code == 0, outcome.stderr
    look = Report(output.read_text()).raw["reach"]
    (problem,) = look["problems"]
    assert "ended before it was looked at" in problem
    assert (look["passes"], look["lost"]["scanned_count"]) == (0, 0)


def test_nothing_was_allocated(program: Path) -> None:
    with Target([program]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), "--lost", *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            report = last_report(tracer)
            outcome = tracer.finish()
        assert target.end() == 0
    assert "Exception" not in outcome.stderr
    assert (reach(report)["lost"]["scanned_count"], reach(report)["passes"]) == (0, 1)


def test_pointers_that_move_all_the_time(program: Path) -> None:
    with Target([program]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *LOST) as tracer:
            tracer.await_armed()
            target.do("move")
            reports = [tracer.next_report() for _ in range(3)]
            tracer.stop()
        target.process.kill()
    assert [counts_under(one, "reachable") for one in reports[1:]] == [(0, 0, 0, 2000)] * 2


def test_stacks_that_threads_take_over_from_others_all_the_time(program: Path) -> None:
    """Whoever ended there before: what the living have there counts."""
    with Target([program]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), "--stop", "--older", "0", *LOST) as tracer:
            tracer.await_armed()
            target.do("carry")
            reports = [tracer.next_report() for _ in range(8)]
            tracer.stop()
        target.process.kill()
    assert {counts_under(one, "reachable") for one in reports[1:]} == {(0, 0, 0, 16)}


def test_a_block_that_was_called_lost_and_is_freed(program: Path) -> None:
    """Nobody can see the pointers, but the program has them: what is said about it is withdrawn."""
    with Target([program]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *LOST) as tracer:
            tracer.await_armed()
            target.do("hide 20")
            target.do("one")
            called = await_report(tracer, lambda one: reach(one)["called_lost"] == 21)
            assert kind_of(only(called, "scenario_hide")) == "leak"
            assert kind_of(only(called, "scenario_one")) == "leak"
            target.do("find 8")
            report = await_report(tracer, lambda one: bool(reach(one)["lost_then_freed"]))
            final = last_report(tracer)
        assert target.end() == 0
    for one in (report, final):
        assert (reach(one)["called_lost"], reach(one)["lost_then_freed"]) == (21, 8)
        assert counts(only(one, "scenario_hide")) == (12, 0, 0, 0)
        assert kind_of(only(one, "scenario_hide")) != "leak"
        assert kind_of(only(one, "scenario_one")) == "leak"
        assert one.raw["verdict"]["lost_count"] == 1


def test_only_the_last_report(program: Path) -> None:
    with Target([program]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), "--lost=last", *OFTEN) as tracer:
            tracer.await_armed()
            target.do("one")
            early = [tracer.next_report() for _ in range(3)]
            final = last_report(tracer)
        assert target.end() == 0
    for report in early:
        assert (reach(report)["passes"], reach(report)["lost"]["scanned_count"]) == (0, 0)
        assert all(kind_of(site) != "leak" for site in report.sites)
    assert counts_under(final, "scenario_one") == (1, 0, 0, 0)
    assert reach(final)["passes"] > 1


def test_several_processes(program: Path) -> None:
    with Target([program]) as one, Target([program]) as other:
        pids = [target.await_ready().pid for target in (one, other)]
        named = ",".join(map(str, pids))
        with Tracer("-p", named, "--lost", *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            one.do("all")
            other.do("all")
            other.do("one")
            report = last_report(tracer)
        lines, _ = one.run_out()
        assert other.end() == 0
    assert counts_under(report, "scenario_one") == (1, 0, 0, 0)
    expected = {name: tuple(2 * count for count in each) for name, each in truths(lines).items()}
    assert {name: counts_under(report, name) for name in expected} == expected
    assert report.raw["verdict"]["lost_count"] == 1 + sum(sum(n[:2]) for n in expected.values())


def test_a_child_that_is_followed(compiled: Compiler) -> None:
    with Target([compiled("family.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), "--follow", *LOST) as tracer:
            tracer.await_armed()
            target.do("keep 5 64")
            (child,) = target.do("fork 1")
            await_traced(tracer, child)
            target.do("to 0 keep 7 64")
            target.do("to 0 lose 30 48")
            target.do("lose 4 48")
            report = last_report(tracer)
        assert target.end() == 0
    assert counts_under(report, "scenario_keep") == (0, 0, 0, 12)
    assert counts_under(report, "scenario_lose") == (34, 0, 0, 0)


@pytest.mark.parametrize(
    ("command", "known", "status"),
    [("one", "leak:other", 23), ("none", "", 0), ("one", "leak:scenario_one", 0)],
)
def test_a_leak_is_an_exit_status(
    program: Path, tmp_path: Path, command: str, known: str, status: int
) -> None:
    suppressions = tmp_path / "known"
    suppressions.write_text(known)
    options = ("--lost", "--exit-code", "leak", "--suppressions", suppressions)
    outcome = run_leaktrace(*options, "--", program, command)
    assert outcome.exit_code == status, outcome.stdout + outcome.stderr
    assert ("LEAK" in outcome.stdout) == (status != 0), outcome.stdout
