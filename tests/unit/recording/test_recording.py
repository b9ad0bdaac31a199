"""Recordings that are written and read again: every report is the same in every format."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rendered_samples import REPORTS, rendered

from leaktrace.model import Report
from leaktrace.recording.reader import read_recording
from leaktrace.recording.streams import LineFile
from leaktrace.recording.writer import RecordingWriter, RunInfo

INFO = RunInfo("1.0", datetime(2026, 3, 1, 6, tzinfo=UTC), {"kernel": "6.1"}, {"pid": 1}, {})
SUFFIXES = ["", ".gz", ".zst"]


def write(path: Path, reports: Iterable[Report], *, ends: bool = True) -> None:
    file = LineFile(io.FileIO(path, "w"), path)
    writer = RecordingWriter(file, INFO)
    writer.begin()
    for report in reports:
        writer.report(report)
    if ends:
        writer.end()
        file.close()


@pytest.mark.parametrize("format_name", ["text", "memleak", "json"])
@pytest.mark.parametrize("name", REPORTS)
def test_a_recorded_report_looks_the_same(name: str, format_name: str, tmp_path: Path) -> None:
    report = REPORTS[name]
    later = replace(report, elapsed_s=report.elapsed_s + 5, number=report.number + 1)
    write(tmp_path / "run", [report, later, report])
    recording = read_recording(tmp_path / "run")
    for again, expected in zip(recording.reports(), [report, later, report], strict=True):
        assert rendered(format_name, again) == rendered(format_name, expected)
    assert recording.problems == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_all_samples_in_one_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"run{suffix}"
    write(path, REPORTS.values())
    again = [rendered("json", report) for report in read_recording(path).reports()]
    assert again == [rendered("json", report) for report in REPORTS.values()]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_recording_that_was_cut_off(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"run{suffix}"
    write(path, REPORTS.values(), ends=False)
    whole = path.read_bytes()
    expected = [rendered("json", report) for report in REPORTS.values()]
    for length in range(len(whole), 0, -len(whole) // 60):
        path.write_bytes(whole[:length])
        if length < 400:
            continue
        recording = read_recording(path)
        again = [rendered("json", report) for report in recording.reports()]
        assert again == expected[: len(again)]
        (problem,) = recording.problems
        assert problem.startswith("the recording was cut off")
        if length == len(whole):
            assert len(again) == len(expected)
