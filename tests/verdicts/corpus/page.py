"""Makes docs/verdicts.md of the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from corpus.cases import Case, descriptions
from corpus.judging import ENOUGH_BLOCKS, Judged
from corpus.results import (
    BY_NAME,
    FAST,
    Results,
    Totals,
    enough_blocks,
    is_false_at_end,
    is_missed,
    is_whole_wrong,
    totals,
)
from corpus.running import PACES

SPEEDS = ("slow", "normal", "fast")

_HEAD = """\
# Verdicts, compared with the truth

leaktrace says of each site whether it leaks. This page says how often that is right: {cases} small
programs, of which it is known what they leak, were traced {runs} times. `make verdicts`
(`tests/verdicts/run_corpus.py`) traces them again and writes this page, also what is wrong.

| | |
|---|---|
| date | {date} |
| leaktrace | {leaktrace} |
| system | {system} |
| kernel | {kernel} |

A verdict is an **alarm** if it is `growing` or `overdue`. The truth is what the program itself
writes: when it has leaked how many blocks, and from when on nothing grows any more. Each program
also has a server's work in the background, whose sites must never be an alarm. It runs at three
speeds:

| speed | interval | reports | program |
|---|---|---|---|
{speeds}

Many things are short here, so that a run takes seconds. What counts is the ratio of the times in a
program to the interval of reports. {late}

## In all

{totals}

* **Precision**: of the sites with an alarm in final reports, those that leak.
* **Recall**: of the leaks that had lost at least {enough} blocks ({enough_sampled} if one block in
  ten is recorded), those that are an alarm in the final report.
* **False, in any report**: reports that have an alarm at a site that does not leak, while that can
  be known. **Early** ones are before a program has settled: a cache that is not full yet can't be
  told from a leak.
* **Fast leaks**: {fast}.
"""

_LATE = """\
Programs that are *attached late* have worked for a long time before they are traced, so what they
free at first is older than the trace."""


def page(results: Results) -> str:
    runs = results.runs
    head = _HEAD.format(
        cases=len({run.case for run in runs}),
        runs=len(runs),
        date=results.date,
        leaktrace=results.leaktrace,
        system=results.system,
        kernel=results.kernel,
        speeds="\n".join(_speed(name) for name in (*SPEEDS, "long")),
        late=_LATE,
        totals=_totals_table(runs),
        enough=ENOUGH_BLOCKS,
        enough_sampled=ENOUGH_BLOCKS * 10,
        fast=", ".join(_title(name) for name in FAST),
    )
    parts = [head, _wrong(runs), _leaks(runs), _others(runs), _other_ways(runs), _limits(runs)]
    if results.failures:
        parts.append(
            "## Runs without a result\n\n"
            + "".join(f"* {_text(one)}\n" for one in results.failures)
        )
    return "\n".join(part for part in parts if part)


def _speed(name: str) -> str:
    pace = PACES[name]
    tick_ms = pace.tick_us / 1000
    return f"| {name} | {pace.interval_s:g} s | {pace.reports} | a tick per {tick_ms:.3g} ms |"


def _share(part: float | None) -> str:
    """Never "100 %" of something that isn't all."""
    if part is None:
        return "–"
    return "100 %" if part == 1 else f"{int(part * 1000) / 10:.1f} %"


def _totals_table(runs: Sequence[Judged]) -> str:
    groups: list[tuple[str, Callable[[Judged], bool]]] = [
        ("all", lambda run: True),
        *((speed, lambda run, speed=speed: run.label == speed) for speed in SPEEDS),
        ("other ways", lambda run: run.label not in SPEEDS),
    ]
    names = [name for name, _ in groups]
    columns = [totals([run for run in runs if belongs(run)]) for _, belongs in groups]
    rows: list[tuple[str, Callable[[Totals], str]]] = [
        ("runs", lambda one: f"{one.runs}"),
        ("**precision**", lambda one: _share(one.precision)),
        ("alarms in final reports: true", lambda one: f"{one.true_alarms}"),
        ("alarms in final reports: **false**", lambda one: f"{one.false_alarms}"),
        ("false, in any report", lambda one: f"{one.reports_with_false} of {one.reports:,}"),
        ("early, in any report", lambda one: f"{one.reports_with_early} of {one.reports:,}"),
        ("**recall**", lambda one: _share(one.recall)),
        (f"leaks of {ENOUGH_BLOCKS} blocks found", lambda one: f"{one.leaks_found} of {one.leaks}"),
        ("the same, in any report", lambda one: f"{one.leaks_ever_found} of {one.leaks}"),
        ("smaller leaks found", lambda one: f"{one.small_leaks_found} of {one.small_leaks}"),
        ("reports until a fast leak is found (median)", _median),
        ("final reports whose own verdict is wrong", lambda one: f"{one.wholes_wrong}"),
    ]
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    lines += [f"| {name} | " + " | ".join(map(say, columns)) + " |" for name, say in rows]
    return "\n".join(lines)


def _median(one: Totals) -> str:
    median = one.median_reports_of_fast
    return "–" if median is None else "not found" if median >= 10**6 else f"{median:g}"


def _title(name: str) -> str:
    late = name.endswith("_attached_late")
    words = BY_NAME[name].program.removeprefix("leak_").replace("_", " ")
    return f"{words}, attached late" if late else words


def _does(case: Case) -> str:
    return _text(descriptions().get(case.program, ""))


def _text(words: str) -> str:
    return words.replace("|", "\\|").replace("\n", " ").strip()


def _kinds(run: Judged) -> str:
    return ", ".join(run.said_at_end) or "holds nothing"


def _leak_cell(run: Judged | None) -> str:
    if run is None:
        return ""
    found = f"{run.reports_to_alarm} / {run.blocks_at_alarm}"
    cell = (
        f"{_kinds(run)}, {found}" if run.first_alarm is not None else f"{_kinds(run)}, never found"
    )
    if is_missed(run):
        cell = f"**{cell}**" if run.leaked_blocks >= enough_blocks(run) else f"*{cell}*"
    return cell + _false_mark(run)


def _other_cell(run: Judged | None) -> str:
    if run is None:
        return ""
    early = f", {run.early_reports} early" if run.early_reports else ""
    unsettled = "" if run.is_settled else ", not settled"
    return f"{_kinds(run)}{early}{unsettled}{_false_mark(run)}"


def _false_mark(run: Judged) -> str:
    if is_false_at_end(run):
        return f", **false** at the end ({run.false_reports} reports)"
    return f", **false** in {run.false_reports} reports" if run.false_reports else ""


def _table(
    heading: Sequence[str], names: Sequence[str], runs: Sequence[Judged], leaks: bool
) -> list[str]:
    by_run = {(run.case, run.label): run for run in runs}
    cell = _leak_cell if leaks else _other_cell
    lines = ["| " + " | ".join(heading) + " |", "|" + "---|" * len(heading)]
    for name in names:
        cells = [cell(by_run.get((name, speed))) for speed in SPEEDS]
        lines.append(" | ".join((f"| {_title(name)}", _does(BY_NAME[name]), *cells)) + " |")
    return lines


def _names(runs: Sequence[Judged], *, leaks: bool, limit: bool = False) -> list[str]:
    traced = {run.case for run in runs}
    return [
        name
        for name, case in BY_NAME.items()
        if name in traced and case.is_leak == leaks and bool(case.limit) == limit
    ]


def _leaks(runs: Sequence[Judged]) -> str:
    lines = [
        "## Leaks",
        "",
        "The verdict of the leak's site in the final report; then the number of reports from the",
        "first leaked block to the first alarm (1: the first report after it), and how many blocks",
        "had been leaked by then. A leak that is missed is **bold**, or *slanted* if it has lost",
        f"fewer than {ENOUGH_BLOCKS} blocks. A leak that stops is right if it was an alarm before,",
        "and is not `growing` at the end.",
        "",
        *_table(("leak", "what it does", *SPEEDS), _names(runs, leaks=True), runs, leaks=True),
    ]
    return "\n".join(lines) + "\n"


def _others(runs: Sequence[Judged]) -> str:
    lines = [
        "## Not leaks",
        "",
        "The verdicts of the program's sites in the final report, and in how many reports there",
        "was an alarm that is false, or *early*: before the program has settled.",
        "",
        *_table(("program", "what it does", *SPEEDS), _names(runs, leaks=False), runs, leaks=False),
    ]
    return "\n".join(lines) + "\n"


def _other_ways(runs: Sequence[Judged]) -> str:
    others = [run for run in runs if run.label not in SPEEDS and not BY_NAME[run.case].limit]
    if not others:
        return ""
    lines = [
        "## Other ways to trace",
        "",
        "The same programs, started by leaktrace (`-c`), with another seed of their random",
        "numbers, with a longer interval, from counters alone, or from a sample.",
        "",
        "| way | runs | precision | false, in any report | recall | smaller leaks | wrong |",
        "|---|---|---|---|---|---|---|",
    ]
    for label in sorted({run.label for run in others}):
        these = [run for run in others if run.label == label]
        sums = totals(these)
        wrong = [_title(run.case) for run in these if _wrongs(run)]
        lines.append(
            f"| {label.replace('normal ', '')} | {sums.runs} | {_share(sums.precision)} "
            f"| {sums.reports_with_false} of {sums.reports:,} | {sums.leaks_found} of {sums.leaks} "
            f"| {sums.small_leaks_found} of {sums.small_leaks} | {', '.join(wrong) or 'none'} |"
        )
    return "\n".join(lines) + "\n"


def _wrongs(run: Judged) -> list[str]:
    """What is wrong about a run, in words."""
    found = []
    if is_missed(run) and run.leaked_blocks >= enough_blocks(run):
        found.append(f"missed after {run.leaked_blocks} blocks ({_kinds(run)})")
    if is_false_at_end(run):
        found.append("false alarm at the end: " + "; ".join(run.false_sites_at_end))
    elif run.false_reports:
        sites = "; ".join(run.all_false_sites)
        found.append(f"false alarm in {run.false_reports} of {run.reports} reports: {sites}")
    if is_whole_wrong(run) and not found:
        found.append(f"the report's own verdict is {run.report_said}")
    return found


def _wrong(runs: Sequence[Judged]) -> str:
    lines = ["## What is wrong", ""]
    for run in runs:
        if not BY_NAME[run.case].limit and (wrongs := _wrongs(run)):
            lines.append(f"* {_title(run.case)} ({run.label}): {_text('; '.join(wrongs))}")
    if len(lines) == 2:
        lines.append("In these runs, nothing.")
    return "\n".join(lines) + "\n"


def _limits(runs: Sequence[Judged]) -> str:
    names = [name for leaks in (True, False) for name in _names(runs, leaks=leaks, limit=True)]
    if not names:
        return ""
    lines = ["## What can't be told", "", "These are not counted above.", ""]
    for name in names:
        case = BY_NAME[name]
        cell = _leak_cell if case.is_leak else _other_cell
        said = "; ".join(f"{run.label}: {cell(run)}" for run in runs if run.case == name)
        lines.append(f"* {_title(name)}: {_does(case)} {case.limit.capitalize()}. {said}.")
    return "\n".join(lines) + "\n"
