"""docs/tried-programs.md is what the script makes of the recorded trials, and has them all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trying.programs import PROGRAMS
from trying.results import Run, Trial, from_reports, load, page

REPOSITORY = Path(__file__).parents[2]
RECORDED = REPOSITORY / "tests/tried/recorded.json"
PAGE = REPOSITORY / "docs/tried-programs.md"


def table_rows(text: str) -> list[list[str]]:
    """The cells of the large table, without its heading."""
    table = text.split("| program | from |")[1].split("\n\n", maxsplit=1)[0]
    return [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]


def one_trial(**fields: object) -> list[str]:
    trial = replace(Trial("a", "Debian a", "1", "-c", processes=1), **fields)  # type: ignore[arg-type]
    return table_rows(page(Run("2026-12-01", "6.1", "Debian", "1.0", [trial])))[0]


def test_page_is_made_of_the_recorded_trials() -> None:
    assert page(load(RECORDED)) == PAGE.read_text(encoding="utf-8")


def test_twenty_programs_or_more_were_traced() -> None:
    rows = table_rows(PAGE.read_text(encoding="utf-8"))
    assert [row[0] for row in rows] == [program.name for program in PROGRAMS]
    assert {row[1].split()[0] for row in rows} >= {"Debian", "PyPI", "npm"}
    assert sum(row[4].isdigit() for row in rows) >= 20


def test_a_missing_program_is_a_row() -> None:
    assert one_trial(failure="not installed (a): apt-get install a")[-1] == (
        "not installed (a): apt-get install a"
    )


def test_one_cut_stack_of_many_is_never_all() -> None:
    assert one_trial(stack_ends={"complete": 99999, "broken": 1})[6].startswith("99.9 %")
    assert one_trial(stack_ends={"complete": 3})[6].startswith("100 %")


def test_a_cut_off_stack_is_not_lost() -> None:
    row = one_trial(losses={"untabled_code": 3, "missed_returns": 2})
    assert row[7] == "missed_returns 2"
    assert "3 cut off" in row[8]


def test_stacks_are_of_the_report_with_the_most() -> None:
    target = {"allocators": ["libc.so.6: 12 functions"], "notes": []}
    reports = [
        {"stack_ends": ends, "losses": {"stacks": lost}, "remarks": [], "target": target}
        for ends, lost in (({"complete": 1}, 0), ({"complete": 4, "broken": 1}, 0), ({}, 7))
    ]
    trial = from_reports(Trial("a", "Debian a", "1", "-c"), reports)
    assert (trial.stack_ends, trial.losses) == ({"complete": 4, "broken": 1}, {"stacks": 7})
