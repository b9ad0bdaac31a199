"""The recorder: what it says, and what has become of marks."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path

import pytest
from rendered_samples import REPORTS

from leaktrace.cli.parsing import build_options
from leaktrace.cli.trace import command
from leaktrace.options import ProcessOptions
from leaktrace.recording.reader import read_recording
from leaktrace.session.recorder import opened_recorder


def options_for(path: Path) -> ProcessOptions:
    words = ["-p", "1", "--record", str(path)]
    with command.make_context("leaktrace", words) as context:
        options = build_options(context.params, context.obj or ())
    assert isinstance(options, ProcessOptions)
    return options


def test_a_mark_that_was_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, report = tmp_path / "run", REPORTS["busy"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened_recorder(options_for(path)) as recorder:
        assert recorder is not None
        recorder.begin(report.target)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, limits[1]))
        try:
            with recorder.marked("full"):
                recorder.report(report)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert recorder.failure == "File too large"
        with recorder.marked("again"):
            recorder.report(report)
        assert recorder.failure is None
        recorder.end()
    recording = read_recording(path)
    assert len(list(recording.reports())) == 1
    assert [mark.name for mark in recording.marks] == ["again"]
    assert "File too large" in capsys.readouterr().err


def test_a_mark_is_not_left_for_the_next_report(tmp_path: Path) -> None:
    path, report = tmp_path / "run", REPORTS["busy"]
    with opened_recorder(options_for(path)) as recorder:
        assert recorder is not None
        recorder.begin(report.target)
        with pytest.raises(OSError, match="no map"), recorder.marked("never"):
            raise OSError("no map")
        recorder.report(report)
        recorder.end()
    recording = read_recording(path)
    assert len(list(recording.reports())) == 1
    assert recording.marks == []


def test_sites_without_room_are_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leaktrace.recording.writer.LONGEST_LINE", 64 << 10)
    (site, *_), report = REPORTS["busy"].sites, REPORTS["busy"]
    sites = tuple(replace(site, id=f"{at:016x}") for at in range(400))
    with opened_recorder(options_for(tmp_path / "run")) as recorder:
        assert recorder is not None
        recorder.begin(report.target)
        for _ in range(2):
            changed = tuple(replace(one, id=f"1{one.id[1:]}") for one in sites)
            recorder.report(replace(report, sites=sites))
            recorder.report(replace(report, sites=changed))
        recorder.end()
    told = capsys.readouterr().err
    assert told.count("sites: a report has no more room") == 1
    assert " of 400 sites" in told
