"""Files of `leaktrace go -f json`, read again: as they were written, and damaged."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from junk_values import JUNK, places
from sample_go import GO_REPORTS, GROWING, rendered_go

from leaktrace.analysis.comparing.changes import compare
from leaktrace.analysis.go_sites import go_sites
from leaktrace.cli.moments import parse_when, reports_at
from leaktrace.go_report import GoReport
from leaktrace.model import Report
from leaktrace.recording import reader
from leaktrace.recording.fields import Fields
from leaktrace.recording.go_report_values import go_report_from
from leaktrace.recording.reader import read_recording
from leaktrace.recording.streams import NotReadableError
from leaktrace.report.diff_text import diff_lines
from leaktrace.report.export import EXPORTS, ExportOptions
from leaktrace.site import Site


def written(folder: Path, *values: object) -> Path:
    file = folder / "run.json"
    file.write_text("".join(f"{json.dumps(value)}\n" for value in values))
    return file


def said(site: Site) -> tuple[object, ...]:
    """A site without where its process has the code."""
    frames = tuple(replace(frame, address=0) for frame in site.stack.frames)
    return replace(site, stack=replace(site.stack, frames=frames)), frames


@pytest.mark.parametrize("name", GO_REPORTS)
def test_a_report_is_read_as_it_was_written(name: str, tmp_path: Path) -> None:
    sample = GO_REPORTS[name]
    file = tmp_path / "run.json"
    file.write_text(rendered_go("json", sample))
    recording = read_recording(file)
    assert recording.is_of_go
    (read,) = recording.reports()
    expected = go_sites(sample)
    for one, other in zip((read, *read.sections), (expected, *expected.sections), strict=True):
        assert list(map(said, one.sites)) == list(map(said, other.sites))
        for field in ("outstanding", "site_count", "losses", "remarks", "error", "measure"):
            assert getattr(one, field) == getattr(other, field), field
        assert (one.target, one.number, one.final) == (other.target, other.number, other.final)


@pytest.mark.parametrize("name", GO_REPORTS)
@pytest.mark.parametrize("format_name", ["text", "json"])
def test_a_report_is_shown_as_it_was(name: str, format_name: str, tmp_path: Path) -> None:
    sample = GO_REPORTS[name]
    file = tmp_path / "run.json"
    file.write_text(rendered_go("json", sample))
    (moment,) = read_recording(file).moments()
    shown = rendered_go(format_name, moment.go_report())
    assert shown == rendered_go(format_name, sample)
    assert len(shown.splitlines()) > (5 if format_name == "text" else 0)


def test_files_of_before_frames_had_places(tmp_path: Path) -> None:
    """Sites are matched by the names of functions then."""
    value = json.loads(rendered_go("json", GROWING))
    del value["go"]["build_id"]
    for container, key in places(value):
        if key in ("frames", "sites", "goroutines"):
            for one in container[key]:
                for added in ("offset", "module_offset", "wrapper", "object_sizes"):
                    one.pop(added, None)
    (old,) = read_recording(written(tmp_path, value)).reports()
    diff = compare(old, go_sites(GROWING))
    assert [one.difference for one in diff.parts[0].changes] == [0]


def test_only_those_that_are_asked_for_are_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.json"
    samples = [replace(sample, number=at) for at, sample in enumerate(GO_REPORTS.values(), 1)]
    file.write_text("".join(rendered_go("json", sample) for sample in samples * 5))
    built: list[int] = []

    def count(fields: Fields) -> GoReport:
        built.append(fields.integer("number"))
        return go_report_from(fields)

    monkeypatch.setattr(reader, "go_report_from", count)
    ends = [parse_when(f"{file}@{which}") for which in ("first", "last")]
    first, last = reports_at(ends)[0]
    assert built == [first.number, last.number] == [1, len(samples)]
    # What is known of the others is the same as if they were.
    for moment, sample in zip(read_recording(file).moments(), samples * 5, strict=True):
        expected = go_sites(sample)
        assert moment.outstanding_bytes == expected.outstanding.bytes
        assert (moment.number, moment.time) == (sample.number, sample.time)
        assert (moment.elapsed_s, moment.is_final) == (sample.elapsed_s, sample.final)
    assert len(built) == 2


def test_reports_that_are_missing_are_told(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    numbers = (3, 4, 7, 9, 9, 1, 2)  # the end is of another run, appended
    file.write_text("".join(rendered_go("json", replace(GROWING, number=n)) for n in numbers))
    recording = read_recording(file)
    assert [moment.number for moment in recording.moments()] == list(numbers)
    told = [(gap.at, gap.missing.count) for gap in recording.gaps]
    assert told == [(0, 2), (2, 2), (3, 1)]
    assert len(recording.problems) == 3
    assert "2 reports are missing between report 4 (" in recording.problems[1]
    problems = reports_at([parse_when(f"{file}@first"), parse_when(f"{file}@last")])[1]
    assert [problem.removeprefix(f"{file}: ") for problem in problems] == recording.problems


def test_any_value_may_be_anything(tmp_path: Path) -> None:
    text = rendered_go("json", GROWING)
    count = len(places(json.loads(text)))
    assert count > 100
    read = 0
    for number in range(count):
        for junk in JUNK if number % 5 == 0 else JUNK[number % 5 :: 5]:
            value: Any = json.loads(text)
            container, key = places(value)[number]
            container[key] = junk
            read += _outcome(written(tmp_path, value))
    assert read > count


def _outcome(file: Path) -> bool:
    try:
        reports: list[Report] = list(read_recording(file).reports())
    except NotReadableError as error:
        assert error.message.isprintable() and error.hint
        return False
    for moment in read_recording(file).moments():
        with contextlib.suppress(NotReadableError):  # in what is no part of sites
            assert rendered_go("text", moment.go_report())
    for report in reports:
        for line in diff_lines(compare(report, report), ("a", "b"), 10, 80):
            assert line.plain.isprintable()
        for name in ("pprof", "folded"):
            export = EXPORTS[name].create(ExportOptions())
            export.add(report)
            export.write(io.BytesIO())
    return True
