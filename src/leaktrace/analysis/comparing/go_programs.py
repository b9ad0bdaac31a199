"""What is particular when reports of `leaktrace go` are compared: a process may have executed
another program between the two, and only one of them may have a profile of the heap."""

from __future__ import annotations

from dataclasses import replace

from leaktrace.go_report import EXECUTED
from leaktrace.model import Measure, Report

_PROFILE = "profile of the heap"


def has_executed(one: Report, other: Report) -> bool:
    """Whether the process executed another program between two reports of one recording."""
    return _executed(one) != _executed(other)


def _executed(report: Report) -> list[str]:
    """What notes say of it: another sentence after each program (process/go_looks.py)."""
    if not report.measure.is_of_go:
        return []
    return [note for note in report.target.notes if note.startswith(EXECUTED)]


def both_with_goroutines(
    base: Report, new: Report
) -> tuple[tuple[Report, ...], tuple[Report, ...]]:
    """Of each, the report that is compared. Where only one has a profile of the heap, those are
    the goroutines of both, and the profile is a section behind them."""
    if {base.measure, new.measure} != {Measure.GO_HEAP, Measure.GOROUTINES}:
        return (base,), (new,)
    return _goroutines_first(base), _goroutines_first(new)


def _goroutines_first(report: Report) -> tuple[Report, ...]:
    sections = [one for one in report.sections if one.measure is Measure.GOROUTINES]
    if report.measure is Measure.GOROUTINES or not sections:
        return (report,)
    profile = replace(report, section=_PROFILE, sections=())
    return replace(sections[0], section=None, go_heap=report.go_heap), profile
