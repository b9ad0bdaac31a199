"""Recordings that somebody else has written: an error that says what is wrong, or a report."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path
from time import tzset

import pytest
from junk_values import JUNK, places
from rendered_samples import REPORTS, rendered
from written_recordings import write

from leaktrace.errors import LeaktraceError
from leaktrace.recording.format import LONGEST_LINE
from leaktrace.recording.gaps import local
from leaktrace.recording.reader import read_recording
from leaktrace.recording.streams import NotReadableError


def outcome(path: Path) -> str:
    """Reads everything there is, in every format."""
    try:
        for report in read_recording(path).reports():
            for name in ("text", "memleak", "json"):
                text = rendered(name, report)
                assert text.replace("\n", "").replace("\t", "").isprintable()
    except NotReadableError as error:
        assert error.message.isprintable() and len(error.message) < 1000
        assert error.hint
        return "refused"
    return "read"


@pytest.mark.parametrize("name", REPORTS)
def test_any_value_may_be_anything(name: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    report = REPORTS[name]
    write(path, [report, report])
    lines = path.read_text().splitlines()
    chooses = random.Random(name)
    outcomes = set()
    for _ in range(120):
        number = chooses.randrange(len(lines))
        value = json.loads(lines[number])
        container, key = chooses.choice(places(value))
        if chooses.random() < 0.2:
            del container[key]
        else:
            container[key] = chooses.choice(JUNK)
        changed = [*lines[:number], json.dumps(value), *lines[number + 1 :]]
        path.write_text("\n".join(changed) + "\n")
        outcomes.add(outcome(path))
    assert outcomes == {"refused", "read"}


@pytest.mark.parametrize("name", REPORTS)
def test_any_value_of_a_stream_may_be_anything(name: str, tmp_path: Path) -> None:
    path = tmp_path / "stream"
    line = rendered("json", REPORTS[name])
    chooses = random.Random(name)
    for _ in range(120):
        value = json.loads(line)
        container, key = chooses.choice(places(value))
        container[key] = chooses.choice(JUNK)
        path.write_text(json.dumps(value) + "\n")
        outcome(path)


LINES = {
    "nested": b'{"schema":"leaktrace/report/1","a":' + b"[" * 1_000_000,
    "a huge number": b'{"schema":"leaktrace/report/1","number":' + b"9" * 1_000_000 + b"}",
    "infinite": b'{"schema":"leaktrace/report/1","elapsed_s":Infinity}',
    "not an object": b"[1,2,3]",
    "not JSON": b"{",
    "not UTF-8": b'{"schema":"\xff\xfe"}',
    "without a schema": b"{}",
    "empty": b"",
}


@pytest.mark.parametrize("where", ["first", "second"])
@pytest.mark.parametrize("name", LINES)
def test_lines_that_are_none(name: str, where: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    begin = rendered("json", REPORTS["quiet"]).encode() if where == "second" else b""
    path.write_bytes(begin + LINES[name] + b"\n")
    assert outcome(path) == "refused"


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Anchorage"])
@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("0001-01-01T00:00:00Z", "refused"),
        ("1969-12-31T23:59:59Z", "refused"),
        ("9999-12-31T23:59:59Z", "refused"),
        ("9999-01-01T00:00:00+14:00", "read"),
        ("1970-01-01T00:00:00Z", "read"),
        ("9998-12-31T23:59:59Z", "read"),
    ],
)
def test_times_far_away(
    time: str, expected: str, zone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    tzset()
    path = tmp_path / "stream"
    value = json.loads(rendered("json", REPORTS["quiet"])) | {"time": time}
    path.write_text(json.dumps(value) + "\n")
    try:
        assert outcome(path) == expected
        if expected == "read":
            (moment,) = read_recording(path).moments()
            assert local(moment.time)
    finally:
        monkeypatch.undo()
        tzset()


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)  # nobody writes to it: opening it would wait
    read_end, write_end = os.pipe()
    os.write(write_end, rendered("json", REPORTS["quiet"]).encode())
    try:
        for path in (fifo, Path(f"/dev/fd/{read_end}"), Path("-")):
            with pytest.raises(NotReadableError) as caught:
                read_recording(path)
            assert "is a pipe, and a recording is read more than once" in caught.value.message
            assert caught.value.hint == "save it to a file first"
    finally:
        os.close(read_end)
        os.close(write_end)


def test_a_newer_format_says_so(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text('{"schema":"leaktrace/recording/2"}\n')
    with pytest.raises(LeaktraceError, match="made by a newer leaktrace"):
        read_recording(path)


def test_a_line_without_end_is_not_kept(tmp_path: Path) -> None:
    """A small compressed file of one endless line."""
    path = tmp_path / "run.gz"
    with gzip.open(path, "wb", 1) as file:
        for _ in range((LONGEST_LINE >> 20) + 2):
            file.write(b" " * (1 << 20))
    with pytest.raises(NotReadableError, match="MiB"):
        list(read_recording(path).reports())


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_damage_within_the_compression(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"run{suffix}"
    write(path, REPORTS.values())
    whole = path.read_bytes()
    chooses = random.Random(suffix)
    for _ in range(40):
        damaged = bytearray(whole)
        damaged[chooses.randrange(10, len(damaged))] ^= 1 << chooses.randrange(8)
        path.write_bytes(damaged)
        outcome(path)


def test_two_stacks_with_one_number(tmp_path: Path) -> None:
    path = tmp_path / "run"
    write(path, [REPORTS["busy"]])
    lines = path.read_text().splitlines()
    stacks = [line for line in lines if '"leaktrace/stack/1"' in line]
    other = json.loads(stacks[1]) | {"stack": json.loads(stacks[0])["stack"]}
    path.write_text("\n".join([*lines[:2], json.dumps(other), *lines[2:]]) + "\n")
    assert outcome(path) == "refused"
