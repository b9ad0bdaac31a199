"""leaktrace show says when reports are missing in a recording."""

from __future__ import annotations

import io
import json
import resource
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from harness.tracer import Outcome, run_leaktrace
from sample_reports import BUSY
from written_recordings import INFO

from leaktrace.model import Report
from leaktrace.recording.streams import LineFile
from leaktrace.recording.writer import RecordingWriter

SCHEMAS = Path(__file__).parents[2] / "docs/schema"
REPORTS = [
    replace(
        BUSY, number=number, elapsed_s=60.0 * number, time=BUSY.time + timedelta(minutes=number)
    )
    for number in range(1, 11)
]
# The first report, some in the middle, the last ones: (how many, after, before), by number.
LOST = {1, 4, 5, 9, 10}
GAPS = [(1, None, 2), (2, 3, 6), (2, 8, None)]


def write_some(path: Path, reports: list[Report], lost: set[int]) -> None:
    """A recording on a disk that is full at times: a limit on the size of files stands for it."""
    file = LineFile(io.FileIO(path, "w"), path)
    writer = RecordingWriter(file, INFO)
    writer.begin()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for report in reports:
        if report.number in lost:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file.size_bytes + 60, limits[1]))
            try:
                with pytest.raises(OSError, match="too large"):
                    writer.report(report)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        else:
            writer.report(report)
    writer.end()
    file.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gaps") / "run.rec"
    write_some(path, REPORTS, LOST)
    return path


def told(outcome: Outcome, name: str = "report-1") -> dict[int, list[tuple[Any, ...]]]:
    """By the number of a report: the gaps that it tells."""
    assert outcome.exit_code == 0, outcome.stderr
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    found = {}
    for line in outcome.stdout.splitlines():
        shown = json.loads(line)
        jsonschema.Draft202012Validator(schema).validate(shown)
        found[shown["number"]] = [
            (
                one["count"],
                *(one[side] and one[side]["number"] for side in ("after", "before")),
            )
            for one in shown.get("missing_reports", [])
        ]
    return found


def test_stderr_says_between_which_times(run: Path) -> None:
    outcome = run_leaktrace("show", run)
    times = {
        one.number: f"report {one.number} ({one.time.astimezone():%Y-%m-%d %H:%M:%S})"
        for one in REPORTS
    }
    for said in (
        f"one report is missing before {times[2]}",
        f"2 reports are missing between {times[3]} and {times[6]}",
        f"2 reports are missing after {times[8]}",
    ):
        assert said in outcome.stderr


@pytest.mark.parametrize("view", [(), ("--by", "function")], ids=["report", "view"])
def test_one_report_tells_all_gaps(run: Path, view: tuple[str, ...]) -> None:
    name = "view-1" if view else "report-1"
    for at in ("last", "first", "6"):
        outcome = run_leaktrace("show", run, "--at", at, *view, "-f", "json")
        assert list(told(outcome, name).values()) == [GAPS]


def test_of_several_reports_each_gap_is_told_once(run: Path) -> None:
    everything = told(run_leaktrace("show", run, "--from", "first", "-f", "json"))
    assert everything == {2: GAPS[:1], 3: [], 6: GAPS[1:2], 7: [], 8: GAPS[2:]}
    some = told(run_leaktrace("show", run, "--from", "3", "--to", "7", "-f", "json"))
    assert some == {3: GAPS[:1], 6: GAPS[1:2], 7: GAPS[2:]}


def test_times_of_a_gap(run: Path) -> None:
    shown = json.loads(run_leaktrace("show", run, "-f", "json").stdout)
    gap = shown["missing_reports"][1]
    for side, number in (("after", 3), ("before", 6)):
        report = REPORTS[number - 1]
        assert gap[side]["elapsed_s"] == report.elapsed_s
        assert gap[side]["time"] == f"{report.time:%Y-%m-%dT%H:%M:%SZ}"


def test_what_show_has_written_can_be_shown_again(run: Path, tmp_path: Path) -> None:
    shown = tmp_path / "shown.json"
    shown.write_text(run_leaktrace("show", run, "--from", "first", "-f", "json").stdout)
    again = run_leaktrace("show", shown, "-f", "json")
    assert told(again) == {8: GAPS}
    assert "2 reports are missing between report 3" in again.stderr


def test_many_gaps_are_few_lines(tmp_path: Path) -> None:
    path = tmp_path / "run.rec"
    reports = [replace(BUSY, number=number) for number in range(1, 42)]
    lost = set(range(2, 42, 2))
    write_some(path, reports, lost)
    outcome = run_leaktrace("show", path, "-f", "json")
    ((_, gaps),) = told(outcome).items()
    assert len(gaps) == len(lost)
    assert len([line for line in outcome.stderr.splitlines() if "missing" in line]) == 11
    assert "10 more reports are missing at 10 other times" in outcome.stderr


def test_without_gaps_nothing_is_said(tmp_path: Path) -> None:
    path = tmp_path / "run.rec"
    write_some(path, REPORTS, set())
    outcome = run_leaktrace("show", path, "--from", "first", "-f", "json")
    assert "missing" not in outcome.stderr
    assert "missing_reports" not in outcome.stdout
