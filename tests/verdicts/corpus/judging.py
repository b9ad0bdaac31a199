"""What leaktrace said of a run, compared with the truth."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus.cases import Case
from corpus.running import Plan

# Verdicts that say that something leaks.
ALARMS = frozenset({"growing", "overdue"})
# From how many leaked blocks on a leak must be found.
ENOUGH_BLOCKS = 50
NO_VERDICT = "none"
_BACKGROUND = "serve_in_background"


@dataclass(frozen=True)
class Judged:
    """One run. Numbers of reports count from 1."""

    case: str
    label: str
    reports: int
    said_at_end: tuple[str, ...]
    """Verdicts of the sites of the case in the final report: of its leaks, if it has any."""
    report_said: str
    """The verdict of the final report as a whole, or of its section that is an alarm."""
    leaked_blocks: int
    leaks_found: int
    """How many of its leaks are alarms in the final report."""
    true_sites_at_end: int
    """Alarms at sites that leak, in the final report."""
    first_leak: int | None
    """The first report after something was leaked."""
    first_alarm: int | None
    """The first report that has an alarm at a leak."""
    blocks_at_alarm: int | None
    """How many blocks had been leaked then."""
    is_settled: bool
    """Whether it settled long enough before the end. Otherwise, its end is not judged."""
    false_reports: int
    """Reports with an alarm at a site that does not leak, while that can be known."""
    early_reports: int
    """The same, before the program has settled."""
    false_sites_at_end: tuple[str, ...]
    """Sites with a false alarm in the final report, by their functions."""
    all_false_sites: tuple[str, ...]
    """The same, in any report."""

    @property
    def reports_to_alarm(self) -> int | None:
        """1: the first report after the first leaked block."""
        if self.first_alarm is None or self.first_leak is None:
            return None
        return self.first_alarm - self.first_leak + 1


@dataclass(frozen=True)
class Said:
    """A report, and when it was read."""

    read_ns: int
    report: Mapping[str, Any]

    def whole(self) -> str:
        """The verdict about all sites: of the report, or of a section that is an alarm."""
        parts = (self.report, *self.report.get("sections", ()))
        kinds = [str((part.get("verdict") or {}).get("kind", NO_VERDICT)) for part in parts]
        return next((kind for kind in kinds if kind in ALARMS), kinds[0])

    def sites(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """(verdict, functions) of each site, also those of other sections."""
        sections = (self.report, *self.report.get("sections", ()))
        for part in (*sections, *self.report.get("other_memory", ())):
            for site in part["sites"]:
                verdict = site.get("verdict") or {}
                functions = tuple(_plain(frame["function"] or "") for frame in site["frames"])
                yield str(verdict.get("kind", NO_VERDICT)), functions


def _plain(function: str) -> str:
    """The name alone: std::make_unique<int, int>(int&&) is make_unique."""
    name = function.replace("(anonymous namespace)", "")
    while (shorter := re.sub(r"<[^<>]*>|\([^()]*\)", "", name)) != name:
        name = shorter
    return (name.split() or [""])[-1].rpartition("::")[2].partition("@")[0].lstrip("*&")


class Truth:
    """What the program says of itself: see programs/case.h."""

    def __init__(self, account: Sequence[Sequence[Any]]) -> None:
        begin_ns = next((ns for ns, what, *rest in account if rest == ["begin"]), 0)
        self._leaked = [
            (ns, int(rest[0])) for ns, what, *rest in account if what == "leaked" and ns >= begin_ns
        ]
        self._marks = {rest[0]: ns for ns, what, *rest in account if what == "mark"}

    def leaked_blocks(self, at_ns: int) -> int:
        return max((count for ns, count in self._leaked if ns <= at_ns), default=0)

    def has(self, name: str, at_ns: int) -> bool:
        return name in self._marks and self._marks[name] <= at_ns


def read(file: Path) -> tuple[Plan, Truth, list[Said]]:
    """The plan, the truth and the reports of a run."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    said = [Said(line["read_ns"], line["report"]) for line in lines if "report" in line]
    fields = {name: lines[0]["run"][name] for name in Plan.__dataclass_fields__}
    plan = Plan(**{**fields, "options": tuple(fields["options"])})
    return plan, Truth(lines[1]["account"]), said


def judge(case: Case, label: str, truth: Truth, said: Sequence[Said]) -> Judged:
    """Compare. `said` has all reports of the run, in order."""
    first_leak = first_alarm = blocks_at_alarm = None
    false_reports = early_reports = 0
    all_false: dict[str, None] = {}
    false_at_end: dict[str, None] = {}
    found: set[str] = set()
    true_sites = 0
    at_end: list[tuple[str, tuple[str, ...]]] = []
    is_settled = False
    for number, one in enumerate(said, 1):
        blocks = truth.leaked_blocks(one.read_ns)
        is_settled = not case.settles or truth.has("settled", one.read_ns)
        if first_leak is None and blocks:
            first_leak = number
        false: dict[str, None] = {}
        is_early = False
        found = set()
        true_sites = 0
        at_end = list(one.sites())
        for verdict, functions in at_end:
            if verdict not in ALARMS or set(case.neither) & set(functions):
                continue
            leaks = set(case.leaks) & set(functions)
            if leaks and (not case.stops or not is_settled or verdict == "overdue") and blocks:
                found |= leaks
                true_sites += 1
                if first_alarm is None:
                    first_alarm, blocks_at_alarm = number, blocks
            elif is_settled or _BACKGROUND in functions:
                false[" < ".join(functions[:2])] = None
            else:
                is_early = True
        all_false |= false
        false_at_end = false
        false_reports += bool(false)
        early_reports += is_early
    kinds = [
        verdict
        for verdict, functions in at_end
        if set(case.leaks) & set(functions)
        or (not case.leaks and _BACKGROUND not in functions and f"case_{case.program}" in functions)
    ]
    return Judged(
        case=case.name,
        label=label,
        reports=len(said),
        said_at_end=tuple(sorted(set(kinds), key=kinds.index)),
        report_said=said[-1].whole(),
        leaked_blocks=truth.leaked_blocks(said[-1].read_ns),
        leaks_found=len(found),
        true_sites_at_end=true_sites,
        first_leak=first_leak,
        first_alarm=first_alarm,
        blocks_at_alarm=blocks_at_alarm,
        is_settled=is_settled,
        false_reports=false_reports,
        early_reports=early_reports,
        false_sites_at_end=tuple(false_at_end),
        all_false_sites=tuple(all_false),
    )
