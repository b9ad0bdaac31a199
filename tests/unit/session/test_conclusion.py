"""What a run exits with, from the verdicts of its reports."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sample_go import GROWING as GROWING_GO
from sample_go import SINGLE as SINGLE_GO
from sample_go_summaries import GO
from sample_reports import BUSY

from leaktrace.go_report import GoSummary, GoVerdict
from leaktrace.model import Report, Suppressed, SuppressedByPattern
from leaktrace.options import LeakExit, Suppression
from leaktrace.session.conclusion import Conclusion
from leaktrace.site import Total
from leaktrace.verdict import Verdict, VerdictKind

PLAIN = replace(BUSY, verdict=None, leaking=(), sections=(), other_memory=())
STEADY = replace(PLAIN, verdict=Verdict(VerdictKind.STEADY))
EARLY = replace(PLAIN, verdict=Verdict(VerdictKind.TOO_EARLY))
SLOW = replace(
    PLAIN, verdict=Verdict(VerdictKind.TOO_EARLY, "slow", bytes_per_s=5.0, needs_s=300.0)
)
OVERDUE = replace(PLAIN, verdict=Verdict(VerdictKind.OVERDUE, bytes_per_s=1e6))


def growing(*rates: float) -> Report:
    each = tuple(Verdict(VerdictKind.GROWING, bytes_per_s=rate) for rate in rates)
    return replace(
        PLAIN, verdict=Verdict(VerdictKind.GROWING, bytes_per_s=sum(rates)), leaking=each
    )


def concluded(*reports: Report, leak_exit: LeakExit | None = LeakExit()) -> Conclusion:  # noqa: B008
    conclusion = Conclusion(leak_exit, ())
    for report in reports:
        conclusion.see(report)
    return conclusion


@pytest.mark.parametrize(
    ("reports", "status"),
    [
        ([], 0),
        ([PLAIN], 0),
        ([EARLY], 0),
        ([STEADY], 0),
        ([OVERDUE], 0),
        ([growing(0.1)], 23),
        # The last one that had a verdict counts.
        ([growing(5), STEADY], 0),
        ([STEADY, growing(5)], 23),
        ([growing(5), EARLY, PLAIN], 23),
        # A section is as good as the report.
        ([replace(STEADY, sections=(STEADY, growing(2)))], 23),
        ([replace(EARLY, other_memory=(growing(2),))], 23),
        ([replace(EARLY, sections=(STEADY,))], 0),
    ],
)
def test_status(reports: list[Report], status: int) -> None:
    assert concluded(*reports).exit_status(0) == status


def test_only_sites_above_the_threshold_count() -> None:
    leak_exit = LeakExit(42, threshold_per_s=1024.0)
    for rates, status in (((1024.0,), 0), ((1024.5,), 42), ((600.0, 600.0), 0), ((1.0, 2e3), 42)):
        assert concluded(growing(*rates), leak_exit=leak_exit).exit_status(0) == status


def test_a_failure_of_the_command_stays_one() -> None:
    assert concluded(growing(5)).exit_status(7) == 7
    assert concluded(STEADY).exit_status(7) == 7


def test_verdicts_have_no_effect_unless_asked() -> None:
    assert concluded(growing(5), leak_exit=None).exit_status(0) == 0


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (EARLY, "no report had a verdict: the exit status says nothing"),
        (SLOW, "some sites grow slowly"),
        # What has nothing is steady, and says nothing of the others.
        (replace(EARLY, sections=(replace(STEADY, site_count=0),)), "no report had a verdict"),
        (replace(EARLY, sections=(STEADY,)), "in the last report it was too early"),
        (growing(5), "one site grows: exit status 23"),
        (growing(5, 6), "2 sites grow: exit status 23"),
        (STEADY, ""),
    ],
)
def test_it_is_said_why(report: Report, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    concluded(report).tell(verbose=False)
    printed = capsys.readouterr().err
    assert said in printed
    assert bool(said) is bool(printed)


def test_growth_that_is_slow_is_told_whatever_was_known_before(
    capsys: pytest.CaptureFixture[str],
) -> None:
    concluded(STEADY, SLOW).tell(verbose=False)
    told, what_to_do = capsys.readouterr().err.splitlines()
    assert "grow slowly" in told
    assert "5m" in what_to_do


def test_an_early_end_is_told_whatever_was_known_before(
    capsys: pytest.CaptureFixture[str],
) -> None:
    early = replace(EARLY, verdict=Verdict(VerdictKind.TOO_EARLY, "3 blocks may be chance"))
    concluded(STEADY, early).tell(verbose=False)
    told, what_to_do = capsys.readouterr().err.splitlines()
    assert "too early" in told
    assert "3 blocks may be chance" in told
    assert "--lost" in what_to_do


GO_LEAK = replace(GO, leaking_group_count=1)
GO_HEAP = replace(GO, verdict=GoVerdict.STEADY)
GO_STEADY = replace(GO_HEAP, heap_verdict=Verdict(VerdictKind.STEADY))
GO_EARLY = replace(
    GO,
    verdict=GoVerdict.TOO_EARLY,
    heap_verdict=Verdict(VerdictKind.TOO_EARLY, "3 looks"),
)


@pytest.mark.parametrize(
    ("go", "status", "said"),
    [
        (GO_LEAK, 23, "goroutines pile up and the heap of Go grows: exit status 23"),
        (GO_HEAP, 23, "the heap of Go grows: exit status 23"),
        (GO_STEADY, 0, ""),
        (GO_EARLY, 0, "no report had a verdict"),
        (replace(GO_STEADY, heap_verdict=GO_EARLY.heap_verdict), 0, "the heap of Go: 3 looks"),
        (replace(GO_STEADY, heap_verdict=None), 0, ""),
    ],
)
def test_what_leaks_of_go_counts(
    go: GoSummary, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    conclusion = concluded(replace(PLAIN, go=(go,)))
    assert conclusion.exit_status(0) == status
    conclusion.tell(verbose=False)
    printed = capsys.readouterr().err
    assert said in printed
    assert bool(said) is bool(printed)


def test_the_threshold_counts_for_the_heap_of_go_and_not_for_goroutines() -> None:
    leak_exit = LeakExit(42, threshold_per_s=1e9)
    for go, status in ((GO_HEAP, 0), (GO_LEAK, 42)):
        assert concluded(replace(PLAIN, go=(go,)), leak_exit=leak_exit).exit_status(0) == status


def test_a_report_on_go_alone(capsys: pytest.CaptureFixture[str]) -> None:
    conclusion = Conclusion(LeakExit(), ())
    conclusion.see_go(SINGLE_GO)
    assert conclusion.exit_status(0) == 0
    conclusion.tell(verbose=False)
    told, what_to_do = capsys.readouterr().err.splitlines()
    assert "no report had a verdict" in told
    assert "--lost" not in what_to_do
    conclusion.see_go(GROWING_GO)
    assert conclusion.exit_status(0) == 23


def test_what_is_not_known_of_go_is_told_beside_sites_that_are_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    concluded(replace(STEADY, go=(GO_EARLY,))).tell(verbose=False)
    assert "too early for a verdict on goroutines" in capsys.readouterr().err


def test_a_heap_of_go_below_the_threshold_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    leak_exit = LeakExit(threshold_per_s=1e9)
    concluded(replace(STEADY, go=(GO_HEAP,)), leak_exit=leak_exit).tell(verbose=False)
    assert "not as fast as --leak-threshold" in capsys.readouterr().err


def test_patterns_that_matched_nothing_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    patterns = ("first", "second", "third")
    conclusion = Conclusion(
        None, [Suppression(one, f"file, line {n}") for n, one in enumerate(patterns, 1)]
    )
    matched = Suppressed((SuppressedByPattern("second", 1, Total(5, 1)),))
    unmatched = Suppressed((SuppressedByPattern("third", 0, Total()),))
    conclusion.see(replace(PLAIN, sections=(replace(PLAIN, suppressed=matched),)))
    conclusion.see(replace(PLAIN, suppressed=unmatched))
    conclusion.tell(verbose=False)
    assert capsys.readouterr().err == ""
    conclusion.tell(verbose=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ", 1)[1] for line in lines] == [
        "file, line 1: leak:first has matched no site",
        "file, line 3: leak:third has matched no site",
    ]
