"""Recordings that are written and read again: every report is the same in every format."""

from __future__ import annotations

import io
import json
import random
import resource
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import jsonschema
import pytest
from rendered_samples import EVENTS, REPORTS, rendered, rendered_events
from sample_sizes import SIZED
from written_recordings import INFO, write

from leaktrace.idle import IdleShare
from leaktrace.model import Report
from leaktrace.recording.left_out import without_contents
from leaktrace.recording.reader import read_recording
from leaktrace.recording.streams import LineFile, NotReadableError
from leaktrace.recording.writer import RecordingWriter
from leaktrace.site import Frame, Site
from leaktrace.verdict import Lifetimes

SUFFIXES = ["", ".gz", ".zst"]


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


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_two_recordings_in_one_file(suffix: str, tmp_path: Path) -> None:
    one, other = tmp_path / f"one{suffix}", tmp_path / f"other{suffix}"
    write(one, [REPORTS["busy"]])
    write(other, [REPORTS["quiet"]])
    one.write_bytes(one.read_bytes() + other.read_bytes())
    with pytest.raises(NotReadableError, match="two recordings"):
        list(read_recording(one).reports())


def test_texts_of_blocks_are_left_out() -> None:
    for name in ("older", "older_of_two"):
        shown = rendered("json", REPORTS[name])
        bare = rendered("json", without_contents(REPORTS[name]))
        assert "customer 4711" in shown
        assert "customer 4711" not in bare
        assert len(json.loads(bare)["older_blocks"]) == len(REPORTS[name].older_blocks)


def random_reports(seed: int, count: int) -> list[Report]:
    """Sites that come, change, go and come again; some have the same id."""
    chooses = random.Random(seed)
    template = REPORTS["busy"]
    sites = list(template.sites)
    reports: list[Report] = []
    last: dict[int, Site] = {}
    for number in range(1, count + 1):
        elapsed_s = number * 5.0 + chooses.random()
        now = []
        for at in range(12):
            if chooses.random() < 0.3:
                continue
            one = sites[at % len(sites)]
            held, blocks = chooses.randrange(1, 1 << 20), chooses.randrange(1, 99)
            changes = chooses.random() < 0.5 or at not in last
            sizes, size_bytes = chooses.choice(
                [
                    ((), ()),
                    ((0, 1, 0, 7), (0, 1, 0, held - 1)),
                    ((0, 0, 0, 3), (0, 0, 0, held)),
                    ((2, 0, 9, 1), (0, 0, held, 0)),
                ]
            )
            site = replace(
                one,
                id=f"{at % 9:016x}",
                bytes=held,
                count=blocks,
                allocated_bytes=held + chooses.choice([0, 5]),
                allocated_count=blocks,
                freed_bytes=chooses.choice([0, 5]),
                freed_count=0,
                oldest_ns=chooses.randrange(1, 5 * 10**9),
                newest_ns=chooses.choice([None, 1]),
                lifetimes=Lifetimes(tuple(chooses.randrange(3) for _ in range(6))),
                sizes=sizes,
                size_bytes=size_bytes,
                verdict=chooses.choice([None, one.verdict]),
                idle=chooses.choice([None, IdleShare(4, 2, 100, 50)]),
            )
            last[at] = site if changes else last[at]
            growth = chooses.choice([None, 0, chooses.randrange(-99, 99)])
            now.append(replace(last[at], growth_bytes=growth))
        chooses.shuffle(now)
        time = template.time + timedelta(seconds=elapsed_s)
        reports.append(
            replace(
                template,
                time=time,
                elapsed_s=elapsed_s,
                number=number,
                sites=tuple(now),
                allocations=None,
            )
        )
    return reports


@pytest.mark.parametrize("seed", range(30))
def test_any_sequence_of_reports_is_read_as_it_was(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "run.zst"
    reports = random_reports(seed, 12)
    write(path, reports)
    again = [rendered("json", report) for report in read_recording(path).reports()]
    assert again == [rendered("json", report) for report in reports]
    # Reports that nobody asks for in between change nothing.
    moments = list(enumerate(read_recording(path).moments()))
    assert [moment.number for _, moment in moments] == [report.number for report in reports]
    *_, last = (moment for _, moment in moments)
    assert rendered("json", last.report()) == rendered("json", reports[-1])


def test_sizes_that_an_older_version_recorded(tmp_path: Path) -> None:
    """It wrote how many blocks have which size, not their bytes."""
    path = write(tmp_path / "run", [SIZED])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    changes = next(line for line in lines if line["schema"] == "leaktrace/changes/1")
    for site in changes["sites"]:
        site.pop("size_bytes", None)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (report,) = read_recording(path).reports()
    for again, site in zip(report.sites, SIZED.sites, strict=True):
        assert again.sizes == site.sizes
        # Blocks of one size have all that the site has.
        is_one = sum(map(bool, site.sizes)) == 1
        assert again.size_bytes == (site.size_bytes if is_one else ())


@pytest.mark.parametrize("damage", [{"7": 1}, {"7": -5, "11": 12_582_917}, {"seven": 1}, {"99": 1}])
def test_sizes_that_do_not_add_up_are_refused(damage: dict[str, int], tmp_path: Path) -> None:
    path = write(tmp_path / "run", [SIZED])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    changes = next(line for line in lines if line["schema"] == "leaktrace/changes/1")
    next(site for site in changes["sites"] if "size_bytes" in site)["size_bytes"] = damage
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(NotReadableError, match="line"):
        list(read_recording(path).reports())


def test_an_unchanged_site_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "run"
    first = replace(REPORTS["quiet"], sites=REPORTS["busy"].sites, allocations=None)
    aged = tuple(
        replace(
            site,
            growth_bytes=0,
            oldest_ns=None if site.oldest_ns is None else site.oldest_ns + 5 * 10**9,
            newest_ns=None if site.newest_ns is None else site.newest_ns + 5 * 10**9,
        )
        for site in first.sites
    )
    later = replace(first, elapsed_s=first.elapsed_s + 5, number=first.number + 1, sites=aged)
    write(path, [first, later])
    *_, line, _end = (json.loads(line) for line in path.read_text().splitlines())
    assert line["schema"] == "leaktrace/changes/1"
    assert line["sites"] == []


def test_a_stack_that_gets_names_later_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "run"
    (site, *_), report = REPORTS["busy"].sites, REPORTS["busy"]
    nameless = replace(site.stack, frames=tuple(Frame(one.address) for one in site.stack.frames))
    before = replace(report, sites=(replace(site, stack=nameless),), allocations=None)
    after = replace(before, number=report.number + 1, sites=(site,))
    write(path, [before, after])
    stacks = [report.sites[0].stack for report in read_recording(path).reports()]
    assert [stack.frames[0].function for stack in stacks] == [None, site.stack.frames[0].function]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_loses_only_the_reports_of_that_time(suffix: str, tmp_path: Path) -> None:
    """The limit on the size of files stands for it (setrlimit(2))."""
    path = tmp_path / f"run{suffix}"
    reports = random_reports(5, 9)
    file = LineFile(io.FileIO(path, "w"), path)
    writer = RecordingWriter(file, INFO)
    writer.begin()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for at, report in enumerate(reports):
        if at in (3, 4, 7):
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
    recording = read_recording(path)
    again = [rendered("json", report) for report in recording.reports()]
    kept = [report for at, report in enumerate(reports) if at not in (3, 4, 7)]
    assert again == [rendered("json", report) for report in kept]
    names = [f"report {one.number} ({one.time.astimezone():%Y-%m-%d %H:%M:%S})" for one in reports]
    assert [problem.partition(": the")[0] for problem in recording.problems] == [
        f"2 reports are missing between {names[2]} and {names[5]}",
        f"one report is missing between {names[6]} and {names[8]}",
    ]


@pytest.mark.parametrize("name", ["busy", "regions", "by_process"])
def test_a_report_too_long_for_a_line_lists_fewer_sites(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    (site, *_), report = REPORTS["busy"].sites, REPORTS[name]
    sites = tuple(replace(site, id=f"{at:016x}", bytes=10**6 - at) for at in range(400))
    long = replace(report, sites=sites, site_count=400, allocations=None, top=7, sort="size")
    longest = 64 << 10
    monkeypatch.setattr("leaktrace.recording.writer.LONGEST_LINE", longest)
    file = LineFile(io.FileIO(path, "w"), path)
    writer = RecordingWriter(file, INFO)
    writer.report(replace(long, sites=sites[:3]))
    assert writer.left_out is None
    writer.report(long)
    left_out = writer.left_out
    writer.report(long)
    writer.report(replace(long, sites=sites[:3]))
    assert writer.left_out is None
    writer.end()
    file.close()
    assert max(map(len, path.read_bytes().splitlines())) <= longest
    first, cut, _, last = read_recording(path).reports()
    assert [len(one.sites) for one in (first, last)] == [3, 3]
    assert [site.id for site in cut.sites] == [site.id for site in sites[: len(cut.sites)]]
    assert 20 < len(cut.sites) < 400
    assert (cut.site_count, cut.top) == (400, 7)
    assert left_out is not None and left_out.listed < left_out.of
    assert left_out.of >= 400


def test_a_report_that_never_fits_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    file = LineFile(io.FileIO(path, "w"), path)
    writer = RecordingWriter(file, INFO)
    writer.report(REPORTS["quiet"])
    with monkeypatch.context() as patch:
        patch.setattr("leaktrace.recording.writer.LONGEST_LINE", 500)
        with pytest.raises(OSError, match="MiB"):
            writer.report(REPORTS["busy"])
    writer.report(REPORTS["busy"])
    writer.end()
    file.close()
    recording = read_recording(path)
    again = [rendered("json", report) for report in recording.reports()]
    assert again == [rendered("json", REPORTS[name]) for name in ("quiet", "busy")]
    assert len(recording.problems) == 1


def test_a_mark_is_written_with_its_report_or_not_at_all(tmp_path: Path) -> None:
    """Wherever the disk gets full, also before the first line."""
    reports = random_reports(5, 2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    refused = 0
    for size_bytes in (0, 100, 300, 700, 1000, 2000, 1 << 20):
        path = tmp_path / f"run-{size_bytes}"
        file = LineFile(io.FileIO(path, "w"), path)
        writer = RecordingWriter(file, INFO)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, limits[1]))
        try:
            writer.report(reports[0], "one")
            names = [("one", 1), ("two", 2)]
        except OSError:
            names, refused = [("two", 2)], refused + 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        writer.report(reports[1], "two")
        writer.end()
        file.close()
        recording = read_recording(path)
        assert [report.number for report in recording.reports()] == [at for _, at in names]
        assert [(mark.name, mark.report) for mark in recording.marks] == names
    assert refused >= 4


def test_a_plain_stream_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "stream.json"
    lines = [rendered("json", report) for report in REPORTS.values()]
    path.write_text(lines[0] + rendered_events("json", *EVENTS) + "".join(lines[1:]))
    recording = read_recording(path)
    assert [rendered("json", report) for report in recording.reports()] == lines
    assert recording.problems == []


def test_every_line_follows_its_schema(repository: Path, tmp_path: Path) -> None:
    schema = json.loads((repository / "docs/schema/recording-1.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    path = tmp_path / "run"
    write(path, [*REPORTS.values(), *random_reports(3, 5)], marks=["begin", None, "end"])
    kinds = set()
    for line in path.read_text().splitlines():
        value = json.loads(line)
        validator.validate(value)
        kinds.add(value["schema"])
    assert len(kinds) == 5
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({"schema": "leaktrace/stack/1", "stack": 1})


def test_marks_are_read(tmp_path: Path) -> None:
    path = tmp_path / "run"
    write(path, random_reports(3, 3), marks=[None, "\x1b[2J", "end"])
    recording = read_recording(path)
    assert len(list(recording.reports())) == 3
    assert [(mark.name, mark.report) for mark in recording.marks] == [("\\x1b[2J", 2), ("end", 3)]
