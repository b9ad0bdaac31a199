"""Every format, for reports built by hand: recorded expected output, and names that attack the
terminal."""

from __future__ import annotations

import io
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rendered_samples import EVENTS, REPORTS, rendered, rendered_events
from rich.cells import cell_len
from sample_families import process
from sample_reports import BUSY, PARSE_SITE

from leaktrace.model import Event, EventKind, Loss, Report, TargetInfo
from leaktrace.report import FORMATS, create_reporter
from leaktrace.site import Frame, ProcessShare, SourceLine, Stack, StackEnd, Total

GOLDEN = Path(__file__).parent / "golden"


def check_golden(name: str, actual: str) -> None:
    path = GOLDEN / name
    if os.environ.get("LEAKTRACE_UPDATE_GOLDEN") == "1":
        path.write_text(actual, encoding="utf-8")
    assert actual == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("name", REPORTS)
def test_report_is_as_recorded(name: str, format_name: str) -> None:
    check_golden(f"{name}.{format_name}", rendered(format_name, REPORTS[name]))


@pytest.mark.parametrize("format_name", FORMATS)
def test_events_are_as_recorded(format_name: str) -> None:
    check_golden(f"events.{format_name}", rendered_events(format_name, *EVENTS))


HOSTILE_NAMES = {
    "escape": "\x1b]0;owned\x07\x1b[2J",
    "newline": "real\n\t999 bytes in 1 allocations from stack\r",
    "c1": "\x9b31m",
    "bidi": "\u202egnp.exe\u2066",
    "line separator": "a\u2028b\u2029c\x85d",
    "surrogate": "\ud800\udbff",
    "invalid UTF-8": b"caf\xe9\xff".decode("utf-8", "surrogateescape"),
    "4 KB of C++": "std::" + "map<int, " * 450 + ">" * 450 + "::insert(int)",
    "wide": "漢字" * 200,
    "combining": "a" + "\u0301" * 4000,
    "emoji": "👩\u200d🚀⚠\ufe0f" * 60,
    "empty": "",
    "spaces": "operator new(unsigned long) " * 30,
}


def hostile(name: str) -> Report:
    frames = (
        Frame(0x10, name, 1, f"/tmp/{name}", source=SourceLine(f"/src/{name}.c", 7)),
        Frame(0x10, name, 0, name, build_id=name, inlined=True),
        Frame(0x20, None, 0, name, unknown=name),
    )
    loss = Loss("stacks", 1, f"stacks {name}", name)
    return replace(
        BUSY,
        final=True,
        reason=name,
        target=TargetInfo(1, name, allocators=(name,), notes=(name,)),
        sites=(replace(PARSE_SITE, stack=Stack(frames, StackEnd.COMPLETE)),),
        allocations=None,
        losses=(loss,),
    )


def hostile_family(name: str, *, by_process: bool) -> Report:
    lines = (process(1, Total(3, 1), 1, command=name), process(2, Total(2, 1), 1, command=name))
    report = hostile(name)
    shares = (ProcessShare(1, report.sites[0].bytes, 1), ProcessShare(2, 0, 0))
    sites = (replace(report.sites[0], processes=shares),)
    parts = (report, replace(report, sites=())) if by_process else ()
    return replace(report, sites=sites, processes=lines, by_process=parts)


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("processes", ["one", "several", "by process"])
@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=list(HOSTILE_NAMES))
def test_hostile_names_stay_names(name: str, processes: str, format_name: str) -> None:
    report = hostile(name)
    if processes != "one":
        report = hostile_family(name, by_process=processes == "by process")
    event = Event(0, 1, EventKind.ALLOCATE, name, 1, 0x10, report.sites[0].stack.frames)
    output, notices = io.StringIO(), io.StringIO()
    reporter = create_reporter(format_name, output, notices)
    reporter.begin(report.target, (name, name))
    reporter.report(report)
    report_text = output.getvalue()
    reporter.event(event)
    for text in (output.getvalue(), notices.getvalue()):
        text.encode("utf-8")  # no lone surrogates
        without_layout = text.replace("\n", "").replace("\t", "").replace(" ", "")
        assert without_layout == "" or without_layout.isprintable()
    assert output.getvalue().count("\n") == report_text.count("\n") + 1
    if format_name == "text":
        assert max(cell_len(line) for line in report_text.splitlines()) <= 80
        assert report_text.count("parse") == 0
    if format_name == "memleak":
        sites = re.findall(r"^\t[0-9]+ bytes in", report_text, flags=re.MULTILINE)
        assert len(sites) == 1
        assert report_text.count("\n\t\t0x") == 2


@pytest.mark.parametrize("format_name", FORMATS)
def test_output_survives_an_ascii_stream(format_name: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="backslashreplace")
    create_reporter(format_name, stream, io.StringIO()).report(hostile("größe_漢字"))
    assert raw.getvalue().isascii()
