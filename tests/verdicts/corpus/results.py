"""The results of all runs, and the figures that sum them up."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from corpus.cases import CASES, Case
from corpus.judging import ALARMS, ENOUGH_BLOCKS, Judged

BY_NAME = {case.name: case for case in CASES}
# Fast leaks, for the figure of how soon they are found: at least one block per tick of the program.
FAST = ("leak_fast", "leak_two", "leak_list", "leak_after_large_startup", "leak_varying_load")
# Options that record one block in about ten, and what needs so many more blocks.
SAMPLED = ("-s 10", "--sample-bytes 1024")


@dataclass(frozen=True)
class Results:
    date: str
    kernel: str
    system: str
    leaktrace: str
    runs: Sequence[Judged]
    failures: Sequence[str] = ()
    """Runs without a result, and why."""


def save(results: Results, file: Path) -> None:
    runs = [f"  {json.dumps(asdict(run))}" for run in results.runs]
    head = {
        field.name: getattr(results, field.name)
        for field in fields(Results)
        if field.name != "runs"
    }
    text = json.dumps(head, indent=1).removesuffix("\n}")
    file.write_text(f'{text},\n "runs": [\n' + ",\n".join(runs) + "\n ]\n}\n", encoding="utf-8")


def load(file: Path) -> Results:
    read = json.loads(file.read_text(encoding="utf-8"))
    runs = [_judged(run) for run in read.pop("runs")]
    return Results(**read, runs=runs)


def _judged(read: dict[str, Any]) -> Judged:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in read.items()
    }
    return Judged(**values)


def enough_blocks(run: Judged) -> int:
    """From how many leaked blocks on its leak must be found."""
    is_sampled = any(option in run.label for option in SAMPLED)
    return ENOUGH_BLOCKS * (10 if is_sampled else 1)


def is_missed(run: Judged) -> bool:
    """Whether the final report has no alarm at a leak that still leaks."""
    case = BY_NAME[run.case]
    return _lasts(case) and run.leaks_found < len(case.leaks)


def is_false_at_end(run: Judged) -> bool:
    return bool(run.false_sites_at_end)


def is_whole_wrong(run: Judged) -> bool:
    """Whether the verdict of the final report as a whole contradicts the truth."""
    case = BY_NAME[run.case]
    leaks = case.is_leak and not case.stops
    says = run.report_said in ALARMS
    return (says and not leaks and run.is_settled) or (
        leaks and not says and run.leaked_blocks >= enough_blocks(run)
    )


@dataclass(frozen=True)
class Totals:
    """Of the runs that count: those whose truth can be known."""

    runs: int
    true_alarms: int
    false_alarms: int  # sites, in final reports
    reports: int
    reports_with_false: int
    reports_with_early: int
    leaks: int
    leaks_found: int
    leaks_ever_found: int  # in any report
    small_leaks: int  # of which fewer blocks were leaked
    small_leaks_found: int
    median_reports_of_fast: float | None
    wholes_wrong: int

    @property
    def precision(self) -> float | None:
        all_alarms = self.true_alarms + self.false_alarms
        return self.true_alarms / all_alarms if all_alarms else None

    @property
    def recall(self) -> float | None:
        return self.leaks_found / self.leaks if self.leaks else None


def counted(runs: Sequence[Judged]) -> list[Judged]:
    return [run for run in runs if not BY_NAME[run.case].limit]


def totals(all_runs: Sequence[Judged]) -> Totals:
    runs = counted(all_runs)
    leaks = [run for run in runs if _lasts(BY_NAME[run.case])]
    large = [run for run in leaks if run.leaked_blocks >= enough_blocks(run)]
    small = [run for run in leaks if run.leaked_blocks < enough_blocks(run)]
    fast = [run for run in runs if run.case in FAST]
    # A leak that was not found took longer than all that were.
    waits = sorted(run.reports_to_alarm or 10**6 for run in fast)
    return Totals(
        runs=len(runs),
        true_alarms=sum(run.true_sites_at_end for run in runs),
        false_alarms=sum(len(run.false_sites_at_end) for run in runs),
        reports=sum(run.reports for run in runs),
        reports_with_false=sum(run.false_reports for run in runs),
        reports_with_early=sum(run.early_reports for run in runs),
        leaks=sum(len(BY_NAME[run.case].leaks) for run in large),
        leaks_found=sum(run.leaks_found for run in large),
        leaks_ever_found=sum(
            len(BY_NAME[run.case].leaks) if run.first_alarm is not None else 0 for run in large
        ),
        small_leaks=sum(len(BY_NAME[run.case].leaks) for run in small),
        small_leaks_found=sum(run.leaks_found for run in small),
        median_reports_of_fast=statistics.median_low(waits) if waits else None,
        wholes_wrong=sum(is_whole_wrong(run) for run in runs),
    )


def _lasts(case: Case) -> bool:
    return case.is_leak and not case.stops
