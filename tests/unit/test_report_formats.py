"""Every format, for reports built by hand: goldens, the memleak contract, the JSON schema, names
that attack the reader's terminal, and a real terminal 80 columns wide."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import struct
import termios
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rich.cells import cell_len

from leaktrace.model import (
    TARGET_ENDED,
    Allocation,
    Ending,
    Event,
    EventKind,
    Frame,
    Loss,
    MemoryKinds,
    Remark,
    RemarkKind,
    Report,
    ResidentMemory,
    Site,
    SlabGrowth,
    SourceLine,
    Stack,
    StackEnd,
    TargetInfo,
    Total,
    UntracedGrowth,
)
from leaktrace.report import FORMATS, create_reporter
from leaktrace.report.json_lines import report_object

GOLDEN = Path(__file__).parent / "golden"
MS = 1_000_000
S = 1_000 * MS

LIBPARSE = "/opt/app/lib/libparse.so.1"
HTTPD = "/usr/sbin/httpd"


def frame(
    address: int, function: str, offset: int, module: str, source: str = "", **others: Any
) -> Frame:
    file, _, line = source.partition(":")
    return Frame(
        address,
        function,
        offset,
        module,
        source=SourceLine(file, int(line)) if source else None,
        **others,
    )


PARSE = Stack(
    (
        frame(
            0x7F3A52C0A1B2,
            "copy_token",
            0,
            LIBPARSE,
            "http/token.h:12",
            inlined=True,
        ),
        frame(
            0x7F3A52C0A1B2,
            "parse_header",
            0x2F,
            LIBPARSE,
            "http/parser.c:118",
            module_offset=0xA1B2,
            build_id="9f3c0a",
        ),
        frame(0x55D0C0DE1A00, "read_request", 0x1A0, HTTPD, "http/server.c:77"),
        frame(0x55D0C0DE0A10, "main", 0x44, HTTPD, "main.c:31"),
    ),
    StackEnd.COMPLETE,
)
CPP_NAME = (
    "std::vector<std::map<std::string, std::shared_ptr<app::cache::Entry>, std::less<void>>>::"
    "_M_realloc_insert<std::map<std::string, std::shared_ptr<app::cache::Entry>>>(unsigned long)"
)
CACHE = Stack(
    (
        frame(
            0x55D0C0DE2222,
            CPP_NAME,
            0x31,
            HTTPD,
            "/home/build/agent/workspace/product-release/src/cache/storage/vector_of_entries.hpp:1203",
        ),
        Frame(
            0x7F3A52D00010,
            module="/usr/lib/x86_64-linux-gnu/libz.so.1.2.13",
            module_offset=0x10010,
            unknown="no symbols",
        ),
        Frame(0x7F3A40000010, unknown="in no mapping"),
    ),
    StackEnd.BROKEN,
)

PARSE_SITE = Site(
    "6f1d2a90c41b7e55",
    PARSE,
    12_582_912,
    12_288,
    oldest_ns=250 * S,
    newest_ns=700 * MS,
    growth_bytes=524_288,
    allocated_bytes=25_165_824,
    allocated_count=24_576,
    freed_bytes=12_582_912,
    freed_count=12_288,
)
CACHE_SITE = Site(
    "00000000000000ff",
    CACHE,
    2_097_152,
    1,
    oldest_ns=3 * S,
    newest_ns=3 * S,
    growth_bytes=0,
    allocated_bytes=2_097_152,
    allocated_count=1,
)
LOST_SITE = Site("0000000000000000", Stack((), StackEnd.LOST), 96, 3, 5 * S, 4 * S, -32)

NO_LOSSES = (
    Loss("allocations", 0, "allocations not recorded: the map is full", bytes=0),
    Loss("stacks", 0, "stacks not stored: the map is full"),
    Loss("missed_returns", 0, "allocation calls whose return was not seen"),
)
LOSSES = (
    Loss(
        "allocations",
        1_234,
        "allocations not recorded: the map is full",
        "raise --max-allocs (now 1,000,000)",
        bytes=3_145_728,
    ),
    Loss(
        "stacks",
        3,
        "stacks not stored: the map is full; the allocations are still counted",
        "raise --max-stacks (now 131,072)",
    ),
    Loss("missed_returns", 0, "allocation calls whose return was not seen"),
)

BUSY = Report(
    time=datetime(2026, 11, 24, 6, 0, 0, tzinfo=UTC),
    elapsed_s=15.0,
    number=3,
    final=False,
    reason="",
    target=TargetInfo(
        4242,
        "httpd",
        allocators=("libc.so.6: 12 functions",),
        notes=("libz.so.1.2.13 has no unwind tables: frames there are guessed",),
    ),
    outstanding=Total(16_777_216, 13_000),
    younger=Total(65_536, 64),
    older_ms=500,
    site_count=37,
    sites=(PARSE_SITE, CACHE_SITE, LOST_SITE),
    top=3,
    growth_bytes=1_258_291,
    resident=ResidentMemory(
        50_331_648,
        1_363_148,
        MemoryKinds(41_943_040, 8_388_608),
        MemoryKinds(5_242_880, 131_072),
    ),
    losses=LOSSES,
    stack_ends={StackEnd.COMPLETE: 35, StackEnd.BROKEN: 1, StackEnd.LOST: 1},
    allocations=(
        Allocation(0x7F3A40001000, 4096, 250 * S, PARSE_SITE.id),
        Allocation(0x7F3A40000F00, 128, 700 * MS, PARSE_SITE.id),
        Allocation(0x55D0C1000010, 2_097_152, 3 * S, CACHE_SITE.id),
        Allocation(0x55D0C1000500, 24, 2 * S, "1111111111111111"),
    ),
)
QUIET = replace(
    BUSY,
    elapsed_s=61.2,
    number=1,
    final=True,
    reason=TARGET_ENDED,
    ending=Ending(status=3),
    outstanding=Total(),
    younger=Total(),
    site_count=0,
    sites=(),
    growth_bytes=None,
    resident=None,
    losses=NO_LOSSES,
    stack_ends={},
    allocations=None,
    top=10,
)
COMBINED = replace(
    BUSY,
    combined=True,
    number=1,
    sites=(
        replace(PARSE_SITE, oldest_ns=None, newest_ns=None, growth_bytes=None),
        replace(LOST_SITE, oldest_ns=None, newest_ns=None, growth_bytes=None),
    ),
    outstanding=Total(12_583_008, 12_291),
    younger=Total(),
    site_count=2,
    growth_bytes=None,
    losses=NO_LOSSES,
    stack_ends={StackEnd.COMPLETE: 1, StackEnd.LOST: 1},
    allocations=None,
)
SAMPLED = replace(
    BUSY,
    sample_rate=100,
    losses=NO_LOSSES,
    allocations=None,
    sites=(PARSE_SITE, CACHE_SITE),
    target=TargetInfo(0, "kernel", "kernel", ("kmem tracepoints: 4",)),
)
WEIGHTED = replace(
    BUSY,
    sample_bytes=524_288,
    error=Total(730_000, 600),
    losses=NO_LOSSES,
    allocations=None,
    younger=Total(),
    sites=(
        replace(PARSE_SITE, error=Total(524_288, 512)),
        replace(CACHE_SITE, error=Total(180_000, 1)),
    ),
    site_count=3,
    outstanding=Total(16_777_216, 1_234_567),
    stack_ends={StackEnd.UNKNOWN: 3},
)
PIPE_SITE = Site(
    "1d2f7a90c41b7e01",
    Stack(
        (
            Frame(
                0xFFFFFFFF81234567,
                "alloc_pipe_info",
                0xB3,
                "kernel",
                module_offset=0x234567,
                build_id="48dc54",
            ),
            Frame(0xFFFFFFFFC0405123, "ext4_alloc_inode", 0x1F, "ext4", module_offset=0x5123),
            Frame(0xFFFFFFFF81000076, "entry_SYSCALL_64_after_hwframe", 0x76, "kernel"),
        ),
        StackEnd.COMPLETE,
    ),
    192_000,
    1_000,
    oldest_ns=4 * S,
    newest_ns=1 * S,
    growth_bytes=192_000,
    allocated_bytes=192_000,
    allocated_count=1_000,
    requested_bytes=152_000,
    cache="kmalloc-192",
    context="process",
)
SOFTIRQ_SITE = replace(
    LOST_SITE,
    requested_bytes=96,
    cache="maple_node",
    context="softirq",
    unconfirmed="objects of maple_node are often freed in bulk, which can't be seen",
)
PAGES_SITE = replace(
    PIPE_SITE, bytes=8_192, count=2, requested_bytes=8_192, cache=None, growth_bytes=-4_096
)
KERNEL_TARGET = TargetInfo(
    0, "kernel 6.1.0", "kernel", ("slab: 4 tracepoints", "pages: 2 tracepoints")
)
PAGES = replace(
    BUSY,
    target=KERNEL_TARGET,
    section="pages",
    outstanding=Total(8_192, 2),
    younger=Total(),
    site_count=1,
    sites=(PAGES_SITE,),
    growth_bytes=-4_096,
    resident=None,
    losses=(),
    stack_ends={StackEnd.COMPLETE: 1},
    allocations=None,
)
KERNEL = replace(
    PAGES,
    section="slab",
    outstanding=Total(192_096, 1_003),
    site_count=2,
    sites=(PIPE_SITE, SOFTIRQ_SITE),
    growth_bytes=191_000,
    losses=NO_LOSSES,
    stack_ends={StackEnd.COMPLETE: 1, StackEnd.LOST: 1},
    sections=(PAGES,),
    slab=SlabGrowth(grown_bytes=12_687_770, tracked_bytes=12_478_054, older_releases=12),
    untraced=(
        UntracedGrowth("vmalloc", "--vmalloc", 67_108_864),
        UntracedGrowth("percpu", "--percpu", 2_097_152),
    ),
)
INCOMPLETE = replace(
    COMBINED,
    resident=ResidentMemory(
        88_080_384, None, MemoryKinds(75_497_472, 10_485_760, 2_097_152), MemoryKinds(67_108_864)
    ),
    losses=(
        *NO_LOSSES,
        Loss(
            "guessed_stacks", 12, "allocations with a frame found by frame pointer", is_lost=False
        ),
    ),
    remarks=(
        Remark(
            RemarkKind.UNHOOKED_ALLOCATOR,
            "libarrow.so.2600 has an allocator of its own, not hooked (jemalloc, as "
            "je_arrow_malloc): what is allocated there is not in these figures",
            "try --faults",
        ),
        Remark(
            RemarkKind.NOT_RESIDENT,
            "RSS grew by 328.0 KiB since leaktrace attached, but 64.0 MiB is outstanding: the rest "
            "was never touched",
        ),
    ),
)
REPORTS = {
    "busy": BUSY,
    "quiet": QUIET,
    "combined": COMBINED,
    "sampled": SAMPLED,
    "weighted": WEIGHTED,
    "kernel": KERNEL,
    "incomplete": INCOMPLETE,
}

EVENTS = (
    Event(
        12_345_678_901_234, 4242, EventKind.ALLOCATE, "malloc", 128, 0x55D0C0DE1234, PARSE.frames
    ),
    Event(12_345_678_950_000, 4243, EventKind.RELEASE, "free", None, 0x55D0C0DE1234),
    Event(12_345_679_000_000, 4242, EventKind.FAIL, "posix_memalign", 1 << 40, 0, CACHE.frames),
)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """memleak's header shows local time."""
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def rendered(format_name: str, *reports: Report) -> str:
    output = io.StringIO()
    reporter = create_reporter(format_name, output, io.StringIO())
    for report in reports:
        reporter.report(report)
    reporter.end()
    return output.getvalue()


def rendered_events(format_name: str, *events: Event) -> str:
    output = io.StringIO()
    create_reporter(format_name, output, io.StringIO()).events(events)
    return output.getvalue()


def check_golden(name: str, actual: str) -> None:
    path = GOLDEN / name
    if os.environ.get("LEAKTRACE_UPDATE_GOLDEN") == "1":
        path.write_text(actual, encoding="utf-8")
    assert actual == path.read_text(encoding="utf-8")


# -- goldens --


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("name", REPORTS)
def test_report_is_as_recorded(name: str, format_name: str) -> None:
    check_golden(f"{name}.{format_name}", rendered(format_name, REPORTS[name]))


@pytest.mark.parametrize("format_name", FORMATS)
def test_events_are_as_recorded(format_name: str) -> None:
    check_golden(f"events.{format_name}", rendered_events(format_name, *EVENTS))


def test_what_a_release_takes_away_has_a_minus() -> None:
    """So the two halves of a realloc are distinguishable."""
    release = Event(1, 1, EventKind.RELEASE, "realloc", 128, 0x1000, PARSE.frames)
    assert " -128  0x1000 " in rendered_events("text", release)
    assert " 128  0x1000 " in rendered_events("text", replace(release, kind=EventKind.ALLOCATE))


# -- text --


@pytest.mark.parametrize("name", REPORTS)
def test_text_fits_80_columns_and_has_no_control_codes(name: str) -> None:
    text = rendered("text", REPORTS[name])
    assert max(cell_len(line) for line in text.splitlines()) <= 80
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)


def test_text_figures_add_up() -> None:
    """The sites, what the age filter leaves out and what --top leaves out add up to the total."""
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

    assert row_of(large).endswith("  50%  ~1,234,567 allocations  ~+512.0 KiB  oldest 4m10s")
    assert row_of(replace(large, growth_bytes=10**9)).endswith("~+953.7 MiB  oldest 4m10s")
    assert row_of(replace(large, growth_bytes=0)).endswith(" allocs  ~+0 B  oldest 4m10s  6f1d2a")
    assert row_of(replace(large, growth_bytes=None)).endswith(" allocations  oldest 4m10s  6f1d2a")


def test_text_says_once_that_no_site_is_old_enough() -> None:
    young = Total(4_096, 1)
    report = replace(
        QUIET, final=False, outstanding=young, younger=young, target=replace(BUSY.target, notes=())
    )
    assert rendered("text", report).splitlines()[1:4] == [
        "outstanding 4.0 KiB in 1 allocation",
        "  younger than 500ms, left out below: 4.0 KiB in 1 allocation",
        "",
    ]
    assert rendered("text", report).count("older") == 1


def test_text_speaks_of_one_in_the_singular() -> None:
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


def test_text_says_where_go_begins() -> None:
    site = replace(PARSE_SITE, stack=replace(PARSE_SITE.stack, end=StackEnd.GO))
    text = rendered("text", replace(BUSY, sites=(site,)))
    assert "    (Go code called the C code above; its own stack is not followed)\n" in text


@pytest.mark.parametrize(
    ("reason", "ending", "expected"),
    [
        (TARGET_ENDED, Ending(status=0), "last report: process 4242 ended with status 0"),
        (
            TARGET_ENDED,
            Ending(signal=11),
            "last report: process 4242 was killed by signal 11 (SIGSEGV)",
        ),
        (TARGET_ENDED, Ending(), "last report: process 4242 ended"),
        ("", Ending(status=1), "last report: process 4242 ended with status 1"),
        ("interrupted (SIGINT)", None, "last report: interrupted (SIGINT)"),
        (
            "interrupted (SIGINT)",
            Ending(signal=2),
            "last report: interrupted (SIGINT); process 4242 was killed by signal 2 (SIGINT)",
        ),
        ("", None, "last report"),
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
    """What `write` writes to a terminal of this width."""
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


# -- memleak --


def test_memleak_lines() -> None:
    """Written out from bcc's tools/memleak.py: print_outstanding() with -a."""
    assert rendered("memleak", BUSY).split("\n")[:13] == [
        "[06:00:00] Top 3 stacks with outstanding allocations:",
        "\taddr = 55d0c1000500 size = 24",
        "\taddr = 7f3a40000f00 size = 128",
        "\taddr = 7f3a40001000 size = 4096",
        "\taddr = 55d0c1000010 size = 2097152",
        "\t96 bytes in 3 allocations from stack",
        "\t\tstack information lost",
        "\t2097152 bytes in 1 allocations from stack",
        f"\t\t0x000055d0c0de2222\t{CPP_NAME}+0x31 [httpd]",
        "\t\t0x00007f3a52d00010\t[unknown] [libz.so.1.2.13]",
        "\t\t0x00007f3a40000010\t[unknown]",
        "\t12582912 bytes in 12288 allocations from stack",
        "\t\t0x00007f3a52c0a1b2\tparse_header+0x2f [libparse.so.1]",
    ]


def test_memleak_combined_lines() -> None:
    """print_outstanding_combined(): no addresses, and words for a lost stack."""
    assert rendered("memleak", COMBINED) == (
        "[06:00:00] Top 3 stacks with outstanding allocations:\n"
        "\t96 bytes in 3 allocations from stack\n"
        "\t\tstack information lost\n"
        "\t12582912 bytes in 12288 allocations from stack\n"
        "\t\tparse_header+0x2f [libparse.so.1]\n"
        "\t\tread_request+0x1a0 [httpd]\n"
        "\t\tmain+0x44 [httpd]\n"
    )


def test_memleak_without_sites() -> None:
    header = "[06:00:00] Top 10 stacks with outstanding allocations:\n"
    assert rendered("memleak", QUIET) == header
    assert rendered("memleak", replace(QUIET, combined=True)) == header + "\n"


@pytest.mark.parametrize(
    ("target", "command", "expected"),
    [
        (BUSY.target, (), "Attaching to pid 4242, Ctrl+C to quit.\n"),
        (SAMPLED.target, (), "Attaching to kernel allocators, Ctrl+C to quit.\n"),
        (
            BUSY.target,
            ("./leaker", "malloc", "30"),
            "Executing './leaker malloc 30' and tracing the resulting process.\n"
            "Attaching to pid 4242, Ctrl+C to quit.\n",
        ),
    ],
)
def test_memleak_first_lines(target: TargetInfo, command: tuple[str, ...], expected: str) -> None:
    output = io.StringIO()
    create_reporter("memleak", output, io.StringIO()).begin(target, command)
    assert output.getvalue() == expected


def test_memleak_amount_is_the_first_word_of_the_last_byte_line() -> None:
    """How bcc's own test (tests/python/test_tools_memleak.py) reads the output."""
    lines = [line for line in rendered("memleak", BUSY).splitlines() if "byte" in line]
    assert int(lines[-1].split()[0]) == PARSE_SITE.bytes


def test_memleak_says_losses_elsewhere_and_once() -> None:
    output, notices = io.StringIO(), io.StringIO()
    reporter = create_reporter("memleak", output, notices)
    reporter.report(replace(BUSY, sample_rate=100))
    reporter.report(replace(BUSY, sample_rate=100))
    assert "lost" not in output.getvalue().replace("stack information lost", "")
    lines = notices.getvalue().splitlines()
    assert len(lines) == 3
    assert "1 allocation in 100" in lines[0]
    assert lines[1].startswith("lost: 1,234 allocations not recorded")
    assert "raise --max-allocs" in lines[1]


def test_memleak_shows_a_symbol_that_is_not_ascii() -> None:
    site = replace(PARSE_SITE, stack=Stack((frame(0x10, "größe_漢字", 1, HTTPD),)))
    assert "\t\t0x0000000000000010\tgröße_漢字+0x1 [httpd]\n" in rendered(
        "memleak", replace(BUSY, sites=(site,))
    )


# -- JSON --


@pytest.fixture
def schemas(repository: Path) -> dict[str, Any]:
    folder = repository / "docs" / "schema"
    return {
        f"leaktrace/{kind}/1": json.loads((folder / f"{kind}-1.schema.json").read_text())
        for kind in ("report", "event")
    }


def validated(text: str, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    objects = [json.loads(line) for line in text.splitlines()]
    for value in objects:
        schema = schemas[value["schema"]]
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.Draft202012Validator(
            schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
        ).validate(value)
    return objects


@pytest.mark.parametrize("name", REPORTS)
def test_json_report_follows_its_schema(name: str, schemas: dict[str, Any]) -> None:
    (value,) = validated(rendered("json", REPORTS[name]), schemas)
    assert value["schema"] == "leaktrace/report/1"


def test_json_events_follow_their_schema(schemas: dict[str, Any]) -> None:
    values = validated(rendered_events("json", *EVENTS), schemas)
    assert [value["kind"] for value in values] == ["alloc", "free", "fail"]
    assert values[1]["bytes"] is None


def test_json_schema_refuses_what_lacks_the_contract(schemas: dict[str, Any]) -> None:
    """The schema is strict: each field is required and typed."""
    value = json.loads(rendered("json", BUSY))
    schema = schemas["leaktrace/report/1"]
    for key in value.keys() - {"allocations"}:
        without = {other: value[other] for other in value if other != key}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(without, schema)
    for key in value["sites"][0]:
        site = {other: value["sites"][0][other] for other in value["sites"][0] if other != key}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(value | {"sites": [site]}, schema)
    jsonschema.validate(value | {"a field of the future": 1}, schema)


def test_json_contract() -> None:
    value = json.loads(rendered("json", BUSY))
    assert value["time"] == "2026-11-24T06:00:00Z"
    assert value["outstanding"] == {"bytes": 16_777_216, "count": 13_000}
    assert value["losses"] == {
        "allocations": 1_234,
        "allocation_bytes": 3_145_728,
        "stacks": 3,
        "missed_returns": 0,
    }
    site = value["sites"][0]
    assert (site["id"], site["oldest_ms"], site["newest_ms"]) == (PARSE_SITE.id, 250_000, 700)
    assert site["frames"][1] == {
        "address": "0x7f3a52c0a1b2",
        "function": "parse_header",
        "offset": 0x2F,
        "module": LIBPARSE,
        "module_offset": "0xa1b2",
        "build_id": "9f3c0a",
        "file": "http/parser.c",
        "line": 118,
        "inlined": False,
    }
    assert site["frames"][0]["inlined"] is True
    assert value["sites"][1]["frames"][1]["unknown"] == "no symbols"
    assert value["sites"][1]["frames"][1]["function"] is None


def test_json_lists_allocations_only_when_asked() -> None:
    assert "allocations" not in json.loads(rendered("json", QUIET))
    assert json.loads(rendered("json", replace(QUIET, allocations=())))["allocations"] == []


def test_json_is_ascii() -> None:
    """So it is valid JSON in any encoding of standard output."""
    site = replace(PARSE_SITE, stack=Stack((frame(0x10, "größe_漢字🙂", 1, HTTPD),)))
    text = rendered("json", replace(BUSY, sites=(site,)))
    assert text.isascii()
    assert json.loads(text)["sites"][0]["frames"][0]["function"] == "größe_漢字🙂"


def test_the_documented_example_is_real(repository: Path, schemas: dict[str, Any]) -> None:
    blocks = re.findall(
        r"```json\n(.*?)```", (repository / "docs" / "json.md").read_text(), flags=re.DOTALL
    )
    report, event = (json.loads(block) for block in blocks)
    assert report == json.loads(rendered("json", replace(BUSY, sites=(PARSE_SITE,))))
    assert event == json.loads(rendered_events("json", EVENTS[0]))


# -- names that attack --

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


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=list(HOSTILE_NAMES))
def test_hostile_names_stay_names(name: str, format_name: str) -> None:
    event = Event(0, 1, EventKind.ALLOCATE, name, 1, 0x10, hostile(name).sites[0].stack.frames)
    output, notices = io.StringIO(), io.StringIO()
    reporter = create_reporter(format_name, output, notices)
    reporter.begin(hostile(name).target, (name, name))
    reporter.report(hostile(name))
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
