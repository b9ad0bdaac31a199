"""The effect of the report options on real reports: intervals, ages, order, lists."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.reports import Report, Total
from harness.target import Target
from harness.tracer import NEVER, Tracer, run_leaktrace, trace_work

pytestmark = pytest.mark.usefixtures("require_bpf")


def test_intervals_and_count(compiled: Compiler) -> None:
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        outcome = run_leaktrace("-p", str(target.pid), "--format", "json", "0.1", "3")
        assert target.end() == 0
    assert outcome.exit_code == 0, outcome.stderr
    reports = outcome.reports
    assert [report.raw["number"] for report in reports] == [1, 2, 3]
    assert [report.raw["target"]["pid"] for report in reports] == [target.pid] * 3
    elapsed = [report.raw["elapsed_s"] for report in reports]
    assert elapsed == sorted(elapsed)
    assert elapsed[0] >= 0.1


def test_a_report_shows_what_came_since_the_last(compiled: Compiler) -> None:
    """The next report after the work contains it."""
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        options = ["--format", "json", "-o", "0", "0.2"]
        with Tracer("-p", str(target.pid), *options) as tracer:
            tracer.await_armed()
            for wanted in (Total(300, 10), Total(600, 20)):
                target.do("malloc 10 30")
                while (report := tracer.next_report()).outstanding != wanted:
                    assert report.outstanding.count <= wanted.count
            target.do("free")
            while tracer.next_report().outstanding != Total():
                pass
            outcome = tracer.stop()
        assert target.end() == 0
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.reports[-1].final
    assert not any(report.final for report in outcome.reports[:-1])


def test_younger_allocations_are_left_out_of_the_sites(compiled: Compiler) -> None:
    traced = trace_work([compiled("functions.c")], "-o", "3600000")
    assert traced.report.sites == ()
    assert traced.report.younger == traced.report.outstanding
    assert traced.report.outstanding.count > 0


def sizes(report: Report) -> list[int]:
    """What takes memory: of mapped regions, what is resident."""
    return [
        site.raw["bytes"] - site.raw.get("reserved_bytes", 0) + site.raw.get("resident_bytes", 0)
        for site in report.sites
    ]


def counts(report: Report) -> list[int]:
    return [site.raw["count"] for site in report.sites]


@pytest.mark.parametrize(("key", "figures"), [("size", sizes), ("count", counts)])
def test_sort(key: str, figures: Callable[[Report], list[int]], compiled: Compiler) -> None:
    report = trace_work([compiled("functions.c")], "--sort", key).report
    assert len(report.sites) > 10
    assert figures(report) == sorted(figures(report), reverse=True)


def test_top(compiled: Compiler) -> None:
    report = trace_work([compiled("functions.c")], "-T", "2").report
    assert len(report.sites) == 2
    assert sizes(report) == [128 << 20, 96 << 20]
    assert report.raw["site_count"] > 10
    assert report.outstanding.count > 30


def test_ages(compiled: Compiler) -> None:
    report = trace_work([compiled("functions.c")]).report
    for site in report.sites:
        assert site.raw["oldest_ms"] >= site.raw["newest_ms"] >= 0


def test_addresses_are_listed_when_asked(compiled: Compiler) -> None:
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        options = ["--format", "memleak", "-a", "-o", "0"]
        with Tracer("-p", str(target.pid), *options, NEVER) as tracer:
            tracer.await_armed()
            target.do("malloc 7 30")
            outcome = tracer.stop()
        assert target.end() == 0
    listed = re.findall(r"^\taddr = ([0-9a-f]+) size = (\d+)$", outcome.stdout, re.MULTILINE)
    assert len({address for address, _ in listed}) == 7
    assert {size for _, size in listed} == {"30"}


def test_json_is_json_lines(compiled: Compiler) -> None:
    import subprocess

    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        outcome = run_leaktrace("-p", str(target.pid), "--format", "json", "0.1", "2")
    checked = subprocess.run(
        [sys.executable, "-m", "json.tool", "--json-lines"],
        input=outcome.stdout.encode(),
        capture_output=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    for line in outcome.stdout.splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_output_goes_to_the_file(compiled: Compiler, tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        outcome = run_leaktrace(
            "-p", str(target.pid), "--format", "json", "--output", output, "0.1", "2"
        )
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stdout == ""
    assert [Report(line).raw["number"] for line in output.read_text().splitlines()] == [1, 2]


def test_text_has_no_control_codes_and_fits_the_page(compiled: Compiler) -> None:
    with Target([compiled("functions.c")]) as target:
        target.await_ready()
        options = ["-o", "0", "-T", "50", "--full-stacks"]
        with Tracer("-p", str(target.pid), *options, NEVER) as tracer:
            tracer.await_armed()
            target.do()
            outcome = tracer.stop()
    assert outcome.exit_code == 0, outcome.stderr
    assert "scenario_calloc" in outcome.stdout
    assert all(character.isprintable() or character == "\n" for character in outcome.stdout)


def test_trace_shows_each_call(compiled: Compiler) -> None:
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), "-t", "-o", "0", NEVER) as tracer:
            tracer.await_armed()
            target.do("malloc 3 54321")
            target.do("free")
            outcome = tracer.stop()
        assert target.end() == 0
    assert outcome.exit_code == 0, outcome.stderr
    for call in ("malloc +54321", "free +-54321"):
        assert len(re.findall(rf"\b{call} +0x[0-9a-f]+\b", outcome.stdout)) == 3


@pytest.mark.parametrize("buffer", ["ring", "perf"])
def test_an_interrupt_ends_a_trace_that_lags_behind(buffer: str, compiled: Compiler) -> None:
    """leaktrace is stopped until there are more calls than it can print in seconds, and continues
    with the signal pending. It prints some, counts the others, and ends."""
    pairs = 60_000
    room = ["--event-buffer", buffer, "--event-buffer-size", str(64 << 20)]
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        options = ["-t", "--format", "json", "-o", "0", *room]
        with Tracer("-p", str(target.pid), *options, NEVER) as tracer:
            tracer.await_armed()
            tracer.process.send_signal(signal.SIGSTOP)
            target.do(f"calls {pairs}")
            tracer.process.send_signal(signal.SIGINT)
            tracer.process.send_signal(signal.SIGCONT)
            outcome = tracer.finish()
        assert target.end() == 0
    assert outcome.exit_code == 0, outcome.stderr
    *calls, last = outcome.stdout.splitlines()
    report = Report(last)
    assert report.final
    assert len(calls) < pairs // 10
    assert report.losses == {"unprinted_events": 2 * pairs - len(calls)}
    assert report.outstanding == Total()
    assert sum(site.raw["allocated_count"] for site in report.sites) in (0, pairs)
