"""Verdicts in the text report."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rendered_samples import rendered
from sample_reports import BUSY, CACHE_SITE, PARSE_SITE, QUIET

from leaktrace.model import Report
from leaktrace.verdict import Verdict, VerdictKind

GROWING = replace(BUSY, sort="growth", allocations=None)


def verdict_in(report: Report) -> list[str]:
    """The lines between the title and the totals."""
    lines = rendered("text", report).splitlines()
    end = next(n for n, line in enumerate(lines) if line.startswith("outstanding"))
    return [line for line in lines[1:end] if not line.startswith("final report")]


def test_the_verdict_says_how_fast_and_where() -> None:
    assert verdict_in(GROWING) == ["GROWING +102.4 KiB/s ±0.9 for 12.0s   at copy_token token.h:12"]
    # Sorted in another way, the first site need not be the one.
    assert verdict_in(replace(GROWING, sort="size")) == [
        "GROWING +102.4 KiB/s ±0.9 for 12.0s   at one site"
    ]


def test_several_sites() -> None:
    assert BUSY.verdict is not None
    both = replace(BUSY.verdict, reason="2 sites grow", bytes_per_s=209_715.2)
    assert verdict_in(replace(GROWING, verdict=both)) == [
        "GROWING +204.8 KiB/s ±0.9 for 12.0s",
        "  at 2 sites; 50% of it at copy_token token.h:12",
    ]


@pytest.mark.parametrize(
    ("verdict", "line"),
    [
        (
            Verdict(VerdictKind.TOO_EARLY, "watched for 5.0s only", needs_s=10.0),
            "TOO EARLY to say: watched for 5.0s only; needs about 10.0 s more",
        ),
        (
            Verdict(VerdictKind.STEADY, "nothing keeps growing"),
            "STEADY for 15.0 s: nothing keeps growing",
        ),
        (Verdict(VerdictKind.FILLING, "one site still filling"), "FILLING one site still filling"),
    ],
)
def test_other_verdicts(verdict: Verdict, line: str) -> None:
    assert verdict_in(replace(BUSY, verdict=verdict)) == [line]


def test_a_long_reason_is_wrapped() -> None:
    reason = (
        "the process frees 471.6 blocks a second that are older than the trace: it may only "
        "replace them"
    )
    lines = verdict_in(replace(BUSY, verdict=Verdict(VerdictKind.TOO_EARLY, reason)))
    assert " ".join(" ".join(lines).split()) == f"TOO EARLY to say: {reason}"
    assert all(len(line) <= 80 for line in lines)


def test_a_report_about_page_faults_has_none() -> None:
    assert verdict_in(replace(BUSY, verdict=None)) == []


def test_it_needs_no_more_time_at_the_end() -> None:
    assert verdict_in(QUIET) == ["TOO EARLY to say: watched for 2.0s only"]


def test_sites_that_matter_less_are_shown_in_short() -> None:
    text = rendered("text", GROWING)
    # A row, and the frame that says most.
    assert "  steady    2.0 MiB  12%" in text
    assert "(stack broken" not in text.split("  steady")[1].split("\n\n")[0]
    in_full = rendered("text", replace(GROWING, full_stacks=True))
    assert "(stack broken" in in_full
    steady = replace(BUSY, verdict=None, sites=(replace(PARSE_SITE, verdict=None), CACHE_SITE))
    assert "(stack broken" in rendered("text", replace(steady, allocations=None))


def test_rates_of_a_report_have_one_unit_of_time() -> None:
    slow = Verdict(VerdictKind.GROWING, "few", 200.0, 10.0, 12.0)
    text = rendered("text", replace(GROWING, sites=(PARSE_SITE, replace(CACHE_SITE, verdict=slow))))
    assert "+102.4 KiB/s" in text and "+200 B/s" in text and "/min" not in text
