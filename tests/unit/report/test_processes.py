"""Reports about several processes, in text."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rendered_samples import rendered
from rich.cells import cell_len
from sample_families import BY_PROCESS, FAMILY, WORKERS, process
from sample_reports import PARSE_SITE

from leaktrace.model import Ending, ProcessLine, Report
from leaktrace.report.processes import process_lines
from leaktrace.report.text import report_lines
from leaktrace.site import ProcessShare, Total


def lines_of(report: Report, width: int = 80) -> list[str]:
    return [line.plain for line in report_lines(report, width)]


def of(*lines: ProcessLine, **more: Any) -> Report:
    return replace(FAMILY, sites=(), site_count=0, processes=lines, by_process=(), **more)


@pytest.mark.parametrize(
    ("parents", "expected"),
    [
        ({4243: 4242}, "nginx (pid 4242) and 1 child"),
        ({4243: 4242, 4244: 4242}, "nginx (pid 4242) and 2 children"),
        ({4243: 4242, 4244: 4243}, "nginx (pid 4242) and 2 descendants"),
        ({4243: 1}, "nginx (pid 4242) and 1 other process"),
        ({4243: 4242, 4244: None}, "nginx (pid 4242) and 2 other processes"),
        ({4243: 4244, 4244: 4243}, "nginx (pid 4242) and 2 other processes"),  # ids used again
        ({}, "nginx (pid 4242)   report 3"),
    ],
)
def test_the_first_line_names_the_family(parents: dict[int, int | None], expected: str) -> None:
    others = [process(pid, Total(), 0, parent_pid=parent) for pid, parent in parents.items()]
    report = of(process(4242, Total(), 0, parent_pid=1), *others)
    assert lines_of(report)[0].startswith(f"leaktrace  {expected}")


def test_a_family_that_does_not_fit_has_a_line_of_its_own() -> None:
    assert lines_of(WORKERS, 48)[:2] == [
        "leaktrace  worker/0:1-even (pid 4194264)",
        "  and 39 descendants   report 3, 15.0 s",
    ]


def test_the_total_is_that_of_all_processes() -> None:
    assert "outstanding 16.0 MiB in 13,000 allocations in 3 processes" in lines_of(FAMILY)
    wide = replace(FAMILY, outstanding=Total(10**18, 10**15), younger=Total())
    assert lines_of(wide)[3:5] == [
        "outstanding 888.2 PiB in 1,000,000,000,000,000 allocations at 37 sites",
        "  in 3 processes   +1.2 MiB since the previous report",
    ]


def test_a_table_has_a_line_for_each_process() -> None:
    at = lines_of(FAMILY).index("")
    assert lines_of(FAMILY)[at + 1 : at + 6] == [
        "   pid  command  outstanding    growth       RSS",
        "  4250  nginx        3.5 MiB       new  ended: killed by SIGKILL",
        "  4243  nginx       11.0 MiB  +1.2 MiB  48.0 MiB (+1.3 MiB)",
        "  4242  nginx        1.5 MiB  -3.6 MiB  48.0 MiB (+1.3 MiB)",
        "",
    ]


def test_the_first_report_has_no_growth() -> None:
    first = of(process(4242, Total(4096, 1), None), growth_bytes=None)
    at = lines_of(first).index("")
    assert lines_of(first)[at + 1 : at + 3] == [
        "   pid  command  outstanding       RSS",
        "  4242  nginx        4.0 KiB  48.0 MiB (+5.1 MiB)",
    ]


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        (None, "ended"),
        (Ending(), "ended"),
        (Ending(status=0), "ended: exit 0"),
        (Ending(status=77), "ended: exit 77"),
        (Ending(signal=9), "ended: killed by SIGKILL"),
        (Ending(signal=40), "ended: killed by signal 40"),
    ],
)
def test_the_table_says_how_a_process_ended(ending: Ending | None, expected: str) -> None:
    ended = process(4242, Total(1, 1), 1, resident=None, has_ended=True, ending=ending)
    assert any(line.endswith(f"  +1 B  {expected}") for line in lines_of(of(ended)))


def test_a_table_of_ended_processes_has_no_rss() -> None:
    ended = process(4242, Total(1, 1), 1, resident=None, has_ended=True)
    table = [line.plain for line in process_lines(of(ended), 80)]
    assert table[0] == "   pid  command  outstanding  growth"


def test_what_has_no_line_is_added_up() -> None:
    text = rendered("text", WORKERS)
    assert text.count("48.0 MiB (+1.3 MiB)") == 9  # and one has ended
    assert "\n  ... and 30 more: 120.0 MiB, +240.0 KiB\n" in text
    processes = (*WORKERS.processes[:11], process(1, Total(5, 1), None))
    assert "\n  ... and 2 more: 4.0 MiB, +8.0 KiB\n" in rendered(
        "text", replace(WORKERS, processes=processes)
    )
    ten = rendered("text", replace(WORKERS, processes=WORKERS.processes[:10]))
    assert "more:" not in ten


def test_a_site_says_who_holds_it() -> None:
    def shares(*holdings: int) -> str:
        some = tuple(ProcessShare(4242 + n, held, 1) for n, held in enumerate(holdings))
        processes = tuple(process(4242 + n, Total(1, 1), 0) for n in range(4))
        site = replace(PARSE_SITE, bytes=sum(holdings), processes=some)
        report = replace(FAMILY, sites=(site,), processes=processes)
        lines = lines_of(report)
        return lines[next(n for n, line in enumerate(lines) if PARSE_SITE.id[:6] in line) + 3]

    assert shares(1, 1, 1, 1) == "    in all 4 processes"
    assert shares(2, 1, 1) == "    in 3 of 4 processes"
    assert shares(3, 1, 1) == "    in 3 of 4 processes, 60% in process 4242 (nginx)"
    assert shares(3) == "    only in process 4242 (nginx)"
    assert shares(0, 0) == "    in 2 of 4 processes"


def test_each_process_with_its_own_sites() -> None:
    text = rendered("text", BY_PROCESS)
    assert "nginx (pid 4243)   outstanding 11.0 MiB in 11,000 allocations at 2 sites\n" in text
    assert "nginx (pid 4250)   ended: killed by SIGKILL\n" in text
    assert "pid  command" not in text
    assert text.count("parse_header+0x2f") == 2
    shown = sum(site.bytes for part in BY_PROCESS.by_process for site in part.sites)
    assert shown == 10_485_760 + 1_048_576 + 48 + 2_097_152


def test_only_the_most_growing_processes_have_their_own_sites() -> None:
    parts = tuple(
        replace(BY_PROCESS.by_process[1], target=replace(FAMILY.target, pid=line.pid))
        for line in WORKERS.processes
    )
    text = rendered("text", replace(WORKERS, by_process=parts))
    assert text.count("  outstanding 11.0 MiB") == 10
    assert "\n  ... and 30 more: 120.0 MiB, +240.0 KiB\n" in text
    value = json.loads(rendered("json", replace(WORKERS, by_process=parts)))
    assert len(value["by_process"]) == len(value["processes"]) == 40


@pytest.mark.parametrize("name", ["family", "by_process"])
def test_reports_about_one_process_have_no_field_of_several(name: str) -> None:
    several = {"family": FAMILY, "by_process": BY_PROCESS}[name]
    site = replace(FAMILY.sites[0], processes=())
    target = replace(FAMILY.target, pids=())
    one = replace(several, processes=(), by_process=(), sites=(site,), target=target)
    text = rendered("json", one)
    assert "process" not in text.replace('"kind":"process"', "")
    assert "pids" not in text
    assert '"processes":' in rendered("json", several)


SIZES = st.integers(0, 1 << 60)
CHANGES = st.none() | st.integers(-(1 << 60), 1 << 60)
LINES = st.builds(
    process,
    st.integers(1, 4_194_304),
    st.builds(Total, SIZES, st.integers(0, 1 << 40)),
    CHANGES,
    command=st.text(max_size=40),
    has_ended=st.booleans(),
    ending=st.sampled_from([None, Ending(status=255), Ending(signal=9)]),
)


@settings(max_examples=200, deadline=None)
@given(
    lines=st.lists(LINES, min_size=1, max_size=15),
    width=st.integers(40, 140),
    growth=CHANGES,
    rate=st.sampled_from([1, 100]),
)
def test_no_line_is_wider_than_the_terminal(
    lines: list[ProcessLine], width: int, growth: int | None, rate: int
) -> None:
    shares = tuple(ProcessShare(line.pid, 1, 1) for line in lines)
    parts = tuple(replace(BY_PROCESS.by_process[0], outstanding=line.outstanding) for line in lines)
    report = replace(
        FAMILY,
        processes=tuple(lines),
        growth_bytes=growth,
        sites=(replace(PARSE_SITE, bytes=max(len(lines) - 1, 1), processes=shares),),
        sample_rate=rate,
    )
    for one in (report, replace(report, by_process=parts)):
        shown = lines_of(one, width)
        assert max(cell_len(line) for line in shown) <= width
        assert all(line == "" or line.isprintable() for line in shown)
    table = [line.plain for line in process_lines(report, width)]
    assert [line.split()[0] for line in table[1:11] if line] == [
        str(line.pid) for line in lines[:10]
    ]
    assert all(line == line.rstrip() for line in table)
