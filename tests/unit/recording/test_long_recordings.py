"""Long recordings: reading takes the memory of a short one, whatever comes and goes in it."""

from __future__ import annotations

import io
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import jsonschema
import long_recordings
import pytest
from harness.peak_memory import Took, measured
from harness.tracer import tracer_environment
from rendered_samples import REPORTS
from written_recordings import INFO, write

from leaktrace.model import Report
from leaktrace.recording import reader, writer
from leaktrace.recording.moments import Points
from leaktrace.recording.reader import read_recording
from leaktrace.recording.streams import LineFile
from leaktrace.site import Releaser, Stack

MORE_KIB = 32 << 10  # that a long recording may take: less than half of what its stacks would
SHORT, LONG = 16, 48  # reports, of 1.4 MiB each


def reports_of(seed: int, count: int) -> list[Report]:
    """Reports whose sites have stacks that come, go and come again."""
    chooses = random.Random(seed)
    template = REPORTS["busy"].sites[0]
    frame = template.stack.frames[0]
    stacks = [
        replace(template.stack, frames=(replace(frame, address=0x1000 + number),))
        for number in range(60)
    ]
    reports = []
    for number in range(1, count + 1):
        sites = tuple(
            replace(
                template,
                id=f"{at:016x}",
                stack=chooses.choice(stacks),
                bytes=10_000 - at,
                freed_at=tuple(
                    Releaser(chooses.choice(stacks), 3, 5) for _ in range(chooses.randrange(2))
                ),
            )
            for at in range(10)
            if chooses.random() < 0.9
        )
        shown = replace(REPORTS["busy"], number=number, elapsed_s=5.0 * number, sites=sites)
        reports.append(shown)
    return reports


def stacks_of(report: Report) -> dict[str, list[Stack]]:
    return {site.id: [site.stack, *(one.stack for one in site.freed_at)] for site in report.sites}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("trouble", ["none", "full disk", "short lines"])
def test_stacks_are_forgotten_and_come_again(
    seed: int, trouble: str, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_FEW_STACKS", 3)
    if trouble == "short lines":
        monkeypatch.setattr(writer, "LONGEST_LINE", 5500)
    path = tmp_path / "run"
    file = LineFile(io.FileIO(path, "w"), path)
    recording = writer.RecordingWriter(file, INFO)
    chooses = random.Random(seed)
    write_lines, written = file.write, []

    def fails_sometimes(lines: bytes) -> None:
        if chooses.random() < 0.2:
            raise OSError(28, "no space")
        write_lines(lines)

    recording.begin()
    if trouble == "full disk":
        monkeypatch.setattr(file, "write", fails_sometimes)
    shortened = 0
    for report in reports_of(seed, 60):
        try:
            recording.report(report)
        except OSError:
            continue
        shortened += recording.left_out is not None
        written.append(report)
    monkeypatch.undo()
    recording.end()
    file.close()

    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert sum(line["schema"] == "leaktrace/forget/1" for line in lines) > 2
    assert (len(written) < 60) == (trouble == "full disk")
    assert bool(shortened) == (trouble == "short lines")
    schema = json.loads((repository / "docs/schema/recording-1.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    for line in lines:
        validator.validate(line)
    again = list(read_recording(path).reports())
    for found, expected in zip(again, written, strict=True):
        stacks, all_stacks = stacks_of(found), stacks_of(expected)
        assert stacks == {key: all_stacks[key] for key in stacks}
        assert shortened or stacks == all_stacks


def test_reports_that_are_missing_take_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each, all stacks are written again: those of before are forgotten."""
    path = tmp_path / "run"
    file = LineFile(io.FileIO(path, "w"), path)
    recording = writer.RecordingWriter(file, INFO)
    recording.begin()
    reports, write_lines = reports_of(7, 90), file.write
    for report in reports:
        if report.number % 3 == 0:
            monkeypatch.setattr(file, "write", full_disk)
            with pytest.raises(OSError):
                recording.report(report)
            monkeypatch.setattr(file, "write", write_lines)
        else:
            recording.report(report)
    recording.end()
    file.close()
    of_one = max(sum(map(len, stacks_of(one).values())) for one in reports)
    frames = max(len(stack.frames) + 1 for one in reports for stack in stacks_of(one).popitem()[1])
    monkeypatch.setattr(reader, "_MOST_FRAMES", 5 * of_one * frames)
    again = list(read_recording(path).reports())
    assert list(map(stacks_of, again)) == [stacks_of(one) for one in reports if one.number % 3]


def full_disk(_lines: bytes) -> None:
    raise OSError(28, "no space")


def test_points_are_those_of_the_reports(tmp_path: Path) -> None:
    reports = reports_of(1, 5)
    time = reports[0].time + timedelta(microseconds=1)
    reports = [replace(one, time=time + timedelta(days=n)) for n, one in enumerate(reports)]
    points = Points(read_recording(write(tmp_path / "run", reports)).moments())
    assert [point.number for point in points] == [1, 2, 3, 4, 5]
    moments = list(read_recording(tmp_path / "run").moments())
    assert [point.time for point in points[1:]] == [one.time for one in moments[1:]]
    assert [point.outstanding_bytes for point in points] == [
        one.outstanding.bytes for one in reports
    ]


def test_gaps_beyond_some_are_told_together(tmp_path: Path) -> None:
    path = write(tmp_path / "run", reports_of(1, 100))
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    gaps = 0
    for line in lines:
        if line["schema"] == "leaktrace/changes/1" and line["number"] % 3 == 0:
            line["missed"] = 2
            gaps += 1
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    recording = read_recording(path)
    assert len(list(recording.moments())) == 100
    assert 2 < len(recording.problems) < gaps
    told = sum(int(problem.split()[0]) for problem in recording.problems)
    assert told == 2 * gaps


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A short one and one of more than 60 MB, with the same kind of reports."""
    folder = tmp_path_factory.mktemp("long")
    short = write(folder / "short.rec", long_recordings.reports(SHORT))
    long = write(folder / "long.rec", long_recordings.reports(LONG))
    assert long.stat().st_size > 60_000_000
    yield short, long
    for path in (short, long):
        path.unlink()


def took(*words: str | Path) -> Took:
    ended = measured([sys.executable, "-m", "leaktrace", *words], tracer_environment())
    assert ended.exit_code == 0, ended.stderr
    return ended


@pytest.mark.parametrize("at", ["last", "peak"])
def test_show_takes_no_more_memory(at: str, recordings: tuple[Path, Path]) -> None:
    short, long = (took("show", path, "--at", at, "-f", "json") for path in recordings)
    assert long.peak_kib < short.peak_kib + MORE_KIB
    held = {one.number: one.outstanding.bytes for one in long_recordings.reports(LONG)}
    wanted = {"last": LONG, "peak": max(held, key=lambda number: held[number])}[at]
    shown = json.loads(long.stdout)
    assert (shown["number"], shown["outstanding"]["bytes"]) == (wanted, held[wanted])


def test_diff_takes_no_more_memory(recordings: tuple[Path, Path]) -> None:
    short, long = (
        took("diff", f"{path}@first", f"{path}@last", "-f", "json") for path in recordings
    )
    assert long.peak_kib < short.peak_kib + MORE_KIB
    shown = json.loads(long.stdout)
    held = [one.outstanding.bytes for one in long_recordings.reports(LONG)]
    assert (shown["base_total"], shown["new_total"]) == (held[0], held[-1])
