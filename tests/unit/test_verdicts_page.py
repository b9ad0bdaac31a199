"""docs/verdicts.md is what the script makes of the recorded runs, and hides nothing of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from corpus.cases import CASES, Case
from corpus.judging import Judged, Said, Truth, judge
from corpus.page import page
from corpus.results import Results, load, save, totals

REPOSITORY = Path(__file__).parents[2]
RECORDED = REPOSITORY / "tests/verdicts/recorded.json"
PAGE = REPOSITORY / "docs/verdicts.md"

LEAK = Case("leak_fast", ("leak_here",))
CACHE = Case("cache_lru", settles=True)


def reports(*verdicts: tuple[str, str]) -> list[Said]:
    """One report per second, each with one site: its verdict and its function."""
    return [
        Said(
            number * 10**9,
            {
                "verdict": {"kind": kind},
                "sites": [
                    {
                        "verdict": {"kind": kind},
                        "frames": [{"function": function}, {"function": "case_cache_lru"}],
                    }
                ],
            },
        )
        for number, (kind, function) in enumerate(verdicts, 1)
    ]


def account(*lines: tuple[float | str, ...]) -> Truth:
    return Truth([[int(float(at_s) * 1e9), *words] for at_s, *words in lines])


def results(*runs: Judged) -> Results:
    return Results("2026-12-01", "6.1", "Debian", "1.0", runs)


def judged(case: Case, truth: Truth, *verdicts: tuple[str, str]) -> Judged:
    return judge(case, "normal", truth, reports(*verdicts))


LEAKED = account((0.5, "mark", "begin"), (1.5, "leaked", "60", "600"))
SETTLED = account((0.5, "mark", "begin"), (2.5, "mark", "settled"))


def test_page_is_made_of_the_recorded_runs() -> None:
    assert page(load(RECORDED)) == PAGE.read_text(encoding="utf-8")


def test_all_cases_were_traced() -> None:
    assert {run.case for run in load(RECORDED).runs} == {case.name for case in CASES}


def test_results_survive_their_file(tmp_path: Path) -> None:
    before = results(judged(LEAK, LEAKED, ("growing", "leak_here")))
    save(before, tmp_path / "file")
    assert replace(load(tmp_path / "file"), runs=(), failures=()) == replace(before, runs=())
    assert tuple(load(tmp_path / "file").runs) == before.runs


def test_a_leak_is_found_from_its_first_block_on() -> None:
    one = judged(LEAK, LEAKED, *[("steady", "leak_here")] * 3, ("growing", "leak_here"))
    assert (one.first_leak, one.first_alarm, one.reports_to_alarm) == (2, 4, 3)
    assert (one.leaks_found, one.blocks_at_alarm, one.false_reports) == (1, 60, 0)


def test_an_alarm_before_anything_leaks_is_false() -> None:
    one = judged(LEAK, LEAKED, ("growing", "leak_here"), ("growing", "leak_here"))
    assert (one.false_reports, one.first_alarm) == (1, 2)


def test_an_alarm_at_another_site_is_false_and_finds_nothing() -> None:
    one = judged(LEAK, LEAKED, *[("growing", "keep_here")] * 2)
    assert (one.false_reports, one.leaks_found) == (2, 0)
    text = page(results(one))
    assert "false alarm at the end: keep_here" in text
    assert "missed after 60 blocks" in text
    assert "In these runs, nothing" not in text


def test_before_it_settles_an_alarm_is_early_and_then_false() -> None:
    alarms = [("overdue", "keep_here")] * 4
    one = judged(CACHE, SETTLED, *alarms)
    assert (one.early_reports, one.false_reports) == (2, 2)
    assert one.false_sites_at_end == ("keep_here < case_cache_lru",)
    one = judged(CACHE, SETTLED, *alarms, ("steady", "keep_here"))
    assert (one.false_reports, one.false_sites_at_end) == (2, ())
    assert "false alarm in 2 of 5 reports" in page(results(one))


def test_a_leak_that_stops_may_not_grow_afterwards() -> None:
    truth = Truth([[10**9, "leaked", "60", "600"], [int(2.5e9), "mark", "settled"]])
    stops = replace(LEAK, stops=True, settles=True)
    assert judged(stops, truth, *[("growing", "leak_here")] * 2).false_reports == 0
    assert judged(stops, truth, *[("growing", "leak_here")] * 3).false_reports == 1


def test_precision_and_recall() -> None:
    found = judged(LEAK, LEAKED, *[("growing", "leak_here")] * 2)
    missed = judged(LEAK, LEAKED, *[("steady", "leak_here")] * 2)
    false = judged(CACHE, SETTLED, *[("growing", "keep_here")] * 3)
    sums = totals([found, missed, false])
    assert (sums.leaks, sums.leaks_found, sums.recall) == (2, 1, 0.5)
    assert (sums.true_alarms, sums.false_alarms, sums.precision) == (1, 1, 0.5)
    assert totals([false]).recall is None


def test_small_leaks_are_counted_apart() -> None:
    few = Truth([[10**9, "leaked", "49", "490"]])
    sums = totals([judged(LEAK, few, ("steady", "leak_here"))])
    assert (sums.leaks, sums.small_leaks, sums.small_leaks_found) == (0, 1, 0)


def test_a_run_without_a_result_is_on_the_page() -> None:
    failed: Any = replace(results(), failures=("leak_fast normal: leaktrace ended with 3",))
    assert "leaktrace ended with 3" in page(failed)
