"""The text format, in a file and on a real terminal."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import termios
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rendered_samples import EVENTS, REPORTS, rendered, rendered_events
from rich.cells import cell_len
from sample_reports import (
    BUSY,
    CACHE,
    COMBINED,
    CPP_NAME,
    PARSE,
    PARSE_SITE,
    QUIET,
    SAMPLED,
    WEIGHTED,
)

from leaktrace.model import TARGET_ENDED, Ending, Event, EventKind, Loss
from leaktrace.report import create_reporter
from leaktrace.report.json_lines import report_object
from leaktrace.site import Site, StackEnd, Total


def test_what_a_release_takes_away_has_a_minus() -> None:
    """So that the two halves of a realloc can be distinguished."""
    release = Event(1, 1, EventKind.RELEASE, "realloc", 128, 0x1000, PARSE.frames)
    assert " -128  0x1000 " in rendered_events("text", release)
    assert " 128  0x1000 " in rendered_events("text", replace(release, kind=EventKind.ALLOCATE))


@pytest.mark.parametrize("name", REPORTS)
def test_text_fits_80_columns_and_has_no_control_codes(name: str) -> None:
    text = rendered("text", REPORTS[name])
    assert max(cell_len(line) for line in text.splitlines()) <= 80
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)


def test_text_figures_add_up() -> None:
    """What is shown, what the age filter and what --top leave out are all that is outstanding."""
    text = rendered("text", BUSY)
    assert "outstanding 16.0 MiB in 13,000 allocations" in text
    assert "younger than 500ms, left out below: 64.0 KiB in 64 allocations" in text
    rest = 13_000 - 64 - 12_288 - 1 - 3
    assert re.search(rf"the other 34 sites: .* in {rest} allocations", text)


def test_text_keeps_places_of_long_names() -> None:
    text = rendered("text", BUSY)
    assert "std::vector::_M_realloc_insert+0x31  .../vector_of_entries.hpp:1203  [httpd]" in text


def test_text_marks_estimates() -> None:
    exact, estimated = rendered("text", BUSY), rendered("text", SAMPLED)
    assert "~" not in exact
    assert "~16.0 MiB in ~13,000 allocations" in estimated
    assert "1 allocation in 100" in estimated


def test_text_keeps_estimates_of_a_site_on_one_line() -> None:
    lines = rendered("text", WEIGHTED).splitlines()
    assert any("outstanding ~16.0 MiB ±712.9 KiB in ~1,234,567 allocations" in x for x in lines)
    rows = [line for line in lines if "oldest" in line]
    assert [row.split()[-1] for row in rows] == ["6f1d2a", "000000"]
    assert len({row.index("±") for row in rows}) == 1

    large = replace(PARSE_SITE, bytes=10**9, count=1_234_567, error=Total(10**8, 1))

    def row_of(site: Site) -> str:
        report = replace(WEIGHTED, sites=(site,), outstanding=Total(2 * 10**9, 1_300_000))
        (row,) = (line for line in rendered("text", report).splitlines() if "oldest" in line)
        return row

    # The verdict says how fast it grows, so that the change is what is left out.
    assert row_of(large).endswith("  50%  ~1,234,567 allocs  oldest 4m10s  6f1d2a")
    unjudged = replace(large, verdict=None)
    assert row_of(unjudged).endswith("  50%  ~1,234,567 allocs  oldest 4m10s  6f1d2a")
    assert row_of(replace(unjudged, growth_bytes=0)).endswith(" ~+0 B  oldest 4m10s  6f1d2a")
    assert row_of(replace(unjudged, growth_bytes=None)).endswith(
        " allocations  oldest 4m10s  6f1d2a"
    )


def test_text_says_once_that_no_site_is_old_enough() -> None:
    young = Total(4_096, 1)
    report = replace(
        QUIET, final=False, outstanding=young, younger=young, target=replace(BUSY.target, notes=())
    )
    assert rendered("text", report).splitlines()[2:5] == [
        "outstanding 4.0 KiB in 1 allocation",
        "  younger than 500ms, left out below: 4.0 KiB in 1 allocation",
        "",
    ]
    assert rendered("text", report).count("older") == 1


def test_text_uses_the_singular_for_one() -> None:
    losses = (
        Loss("a", 1, "allocations not recorded: their map is full", bytes=1),
        Loss("b", 1, "allocation calls that never returned"),
        Loss("c", 2, "stacks not stored"),
    )
    text = rendered("text", replace(WEIGHTED, losses=losses))
    assert "the other site: " in text
    assert "lost: 1 allocation not recorded: their map is full (1 B)\n" in text
    assert "lost: 1 allocation call that never returned\n" in text
    assert "lost: 2 stacks not stored\n" in text


def test_text_says_what_an_unknown_end_means() -> None:
    assert "stacks: 3 by frame pointers (ends unknown)" in rendered("text", WEIGHTED)


def test_what_is_guessed_is_not_lost() -> None:
    losses = (Loss("guessed_stacks", 7, "allocations with a guessed frame", is_lost=False),)
    ends = {StackEnd.COMPLETE: 30, StackEnd.GUESSED: 7, StackEnd.GO: 2}
    report = replace(QUIET, losses=losses, stack_ends=ends)
    assert ("lost: nothing   stacks: 30 complete, 7 with guessed frames, 2 up to Go\n") in rendered(
        "text", report
    )
    notices = io.StringIO()
    create_reporter("memleak", io.StringIO(), notices).report(report)
    assert "lost" not in notices.getvalue()
    assert report_object(report)["losses"] == {"guessed_stacks": 7}


def test_a_stack_that_is_cut_off_is_not_lost() -> None:
    loss = Loss("unmapped_code", 3, "allocations whose stack broke off", "the hint", is_lost=False)
    text = rendered("text", replace(QUIET, losses=(loss,)))
    assert "cut off: 3 allocations whose stack broke off\n         the hint\n" in text
    assert "lost: nothing" in text
    notices = io.StringIO()
    create_reporter("memleak", io.StringIO(), notices).report(replace(QUIET, losses=(loss,)))
    assert "cut off: 3 allocations" in notices.getvalue()
    assert "lost" not in notices.getvalue()


def test_text_says_where_go_begins() -> None:
    site = replace(PARSE_SITE, stack=replace(PARSE_SITE.stack, end=StackEnd.GO))
    text = rendered("text", replace(BUSY, sites=(site,)))
    assert "    (called by Go on another stack, to which leaktrace knows no way)\n" in text


@pytest.mark.parametrize(
    ("reason", "ending", "expected"),
    [
        (TARGET_ENDED, Ending(status=0), "final report: process 4242 ended with status 0"),
        (
            TARGET_ENDED,
            Ending(signal=11),
            "final report: process 4242 was killed by signal 11 (SIGSEGV)",
        ),
        (TARGET_ENDED, Ending(), "final report: process 4242 ended"),
        ("", Ending(status=1), "final report: process 4242 ended with status 1"),
        ("interrupted (SIGINT)", None, "final report: interrupted (SIGINT)"),
        (
            "interrupted (SIGINT)",
            Ending(signal=2),
            "final report: interrupted (SIGINT); process 4242 was killed by signal 2 (SIGINT)",
        ),
        ("", None, "final report"),
    ],
)
def test_text_says_how_the_target_ended(reason: str, ending: Ending | None, expected: str) -> None:
    report = replace(BUSY, final=True, reason=reason, ending=ending)
    assert expected in rendered("text", report).splitlines()


def test_text_says_a_note_once() -> None:
    assert rendered("text", BUSY, BUSY).count("libz.so.1.2.13 has no unwind tables") == 1


def test_text_shows_a_loss_with_its_remedy() -> None:
    text = rendered("text", BUSY)
    assert "lost: 1,234 allocations not recorded: the map is full (3.0 MiB)" in text
    assert "      raise --max-allocs (now 1,000,000)" in text
    assert "missed" not in text
    assert "lost: nothing" not in text
    assert "lost: nothing" in rendered("text", QUIET)


def test_text_shows_what_no_site_accounts_for() -> None:
    text = rendered("text", replace(COMBINED, outstanding=Total(12_583_108, 12_292)))
    assert "at unknown sites: 100 B in 1 allocation" in text


def on_a_terminal(write: Callable[[Any], None], columns: int) -> str:
    """What `write` writes to a terminal of that width."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    received = bytearray()

    def read_all() -> None:
        try:
            while chunk := os.read(master, 4096):
                received.extend(chunk)
        except OSError:  # EIO: the other side is closed
            return

    reader = threading.Thread(target=read_all)
    reader.start()
    with open(slave, "w", encoding="utf-8") as stream:  # noqa: PTH123 (a descriptor)
        write(stream)
    reader.join()
    os.close(master)
    return received.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [80, 120, 50])
def test_text_on_a_terminal_is_coloured_and_fits(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = on_a_terminal(
        lambda stream: create_reporter("text", stream, io.StringIO()).report(BUSY), columns
    )
    assert "\x1b[" in shown
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert "\x1b" not in plain
    assert max(cell_len(line) for line in plain.splitlines()) <= columns
    if columns == 80:
        assert plain == rendered("text", BUSY)


@pytest.mark.parametrize("format_name", ["text", "memleak"])
@pytest.mark.parametrize("columns", [40, 80, 100, 140, 400])
def test_events_on_a_terminal_fit_under_the_names_of_their_columns(
    format_name: str, columns: int
) -> None:
    def write(stream: Any) -> None:
        reporter = create_reporter(format_name, stream, io.StringIO())
        reporter.events(())
        reporter.events(EVENTS)
        reporter.event(EVENTS[1])

    names, *lines = on_a_terminal(write, columns).splitlines()
    assert len(lines) == len(EVENTS) + 1
    assert max(map(cell_len, [names, *lines])) <= columns
    if columns >= 100:
        assert names.split() == ["seconds", "thread", "function", "bytes", "address", "callers"]
        assert [line[14:20] for line in lines] == ["  4242", "  4243", "  4242", "  4243"]
        assert names.index("thread") == 14
        for name in ("function", "address"):
            column = names.index(name)
            assert all(re.match(r" \S", line[column - 1 :]) for line in (lines[0], lines[1]))
        assert names.index("bytes") + 5 == lines[0].index(" 128 ") + 4
    if columns == 140:
        assert "copy_token < parse_header+0x2f < read_request+0x1a0 < main+0x44" in lines[0]
    if columns == 100:
        assert lines[0].endswith("  copy_token < ...")
        assert lines[2].endswith("  _M_realloc_insert+0x31 < ...")
    if columns == 80:
        assert lines[0].endswith("  copy_token")
        assert lines[2].endswith("  _M...sert")


def test_events_in_a_file_have_all_names_in_full() -> None:
    long = Event(0, 1, EventKind.ALLOCATE, "malloc", 1, 0x10, CACHE.frames)
    assert rendered_events("text", long).endswith(
        f"{CPP_NAME}+0x31 < [libz.so.1.2.13+0x10010] < 0x7f3a40000010\n"
    )


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_text_on_a_terminal_without_colour(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv(variable, value)
    shown = on_a_terminal(
        lambda stream: create_reporter("text", stream, io.StringIO()).report(BUSY), 80
    )
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", shown)


def test_text_in_a_file_ignores_force_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in rendered("text", BUSY)
