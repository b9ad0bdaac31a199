"""Differences of two reports of `leaktrace go`: goroutines have no counters, and not each report
has a profile of the heap."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from read_exports import read_pprof
from sample_go import GROWING, SAMPLED, STUCK

from leaktrace.analysis.comparing.changes import Diff, compare
from leaktrace.analysis.comparing.generations import generations
from leaktrace.analysis.go_sites import go_sites
from leaktrace.analysis.quantities import Quantity
from leaktrace.errors import UsageError
from leaktrace.go_report import EXECUTED, GoReport
from leaktrace.model import Measure, Report
from leaktrace.report.diff_exports import write_diff
from leaktrace.report.diff_json import diff_object
from leaktrace.report.diff_notes import notes

NAMES = ("base", "new")
COUNTERS = [Quantity(f"{of}{unit}") for of in ("allocated", "freed") for unit in ("", "-blocks")]


def with_more(report: GoReport, more: int, seconds: float = 3600.0) -> GoReport:
    """The same, so many seconds later, with so many more goroutines that are stuck."""
    section = report.goroutines
    growth = replace(STUCK.growth, count=STUCK.growth.count + more)
    groups = (replace(STUCK, growth=growth), *section.groups[1:])
    section = replace(section, groups=groups, alive_count=section.alive_count + more)
    return replace(report, goroutines=section, elapsed_s=report.elapsed_s + seconds)


PLAIN, PLAIN_LATER = go_sites(SAMPLED), go_sites(with_more(SAMPLED, 7))
HEAP, HEAP_LATER = go_sites(GROWING), go_sites(with_more(GROWING, 7))


@pytest.mark.parametrize("quantity", COUNTERS)
def test_goroutines_have_no_counters(quantity: Quantity) -> None:
    with pytest.raises(UsageError, match="no counters") as raised:
        compare(PLAIN, PLAIN_LATER, quantity, same_run=True)
    assert "--quantity" in raised.value.hint


@pytest.mark.parametrize("quantity", COUNTERS)
def test_beside_a_heap_they_are_counted(quantity: Quantity) -> None:
    heap, goroutines = compare(HEAP, HEAP_LATER, quantity, same_run=True).parts
    assert heap.new.quantity is quantity
    assert goroutines.difference == 7
    assert [one.difference for one in goroutines.changes] == [7, 0]


@pytest.mark.parametrize("at", range(3))
def test_still_at_is_not_about_goroutines(at: int) -> None:
    reports = [HEAP, HEAP_LATER, HEAP_LATER]
    reports[at] = replace(PLAIN, elapsed_s=reports[at].elapsed_s)
    with pytest.raises(UsageError, match="goroutines have no counters"):
        generations(reports[0], reports[1], reports[2])


@pytest.mark.parametrize(("base", "new"), [(PLAIN, HEAP_LATER), (HEAP, PLAIN_LATER)])
def test_only_one_has_a_profile(base: Report, new: Report) -> None:
    """The goroutines of both are compared."""
    diff = compare(base, new, same_run=True)
    (part,) = diff.parts
    assert (part.new.report.measure, part.difference) == (Measure.GOROUTINES, 7)
    label = "new" if base is PLAIN else "base"
    assert f"only in {label}, not compared: profile of the heap" in list(notes(diff))
    other = "base" if base is PLAIN else "new"
    assert [one for one in notes(diff) if one.endswith(f"no profile of the heap in {other}")]
    assert diff.go_heap is not None
    assert diff.per_hour(part.difference) == 7


def executed(report: GoReport, words: str = "") -> GoReport:
    return replace(report, notes=(f"{EXECUTED}{words}: growth counts from here",))


OTHERS = [
    (GROWING, executed(with_more(GROWING, 7))),
    (executed(GROWING), with_more(GROWING, 7)),
    (executed(SAMPLED), executed(with_more(SAMPLED, 7), " 2 times")),
]


@pytest.mark.parametrize(("base", "new"), OTHERS)
def test_another_program_has_no_rate(base: GoReport, new: GoReport) -> None:
    diff = compare(go_sites(base), go_sites(new), same_run=True)
    assert diff.between_s is None
    assert diff.per_hour(7) is None
    assert [note for note in notes(diff) if "executed another program between" in note]
    assert diff_object(diff, NAMES, 10)["per_hour"] is None
    if base.heap is not None and base.heap.look.profile is not None:
        begin, end = go_sites(base), go_sites(new)
        with pytest.raises(UsageError, match="executed another program"):
            generations(begin, end, end)


def test_the_same_program_has_one() -> None:
    base, new = executed(GROWING), executed(with_more(GROWING, 7))
    diff = compare(go_sites(base), go_sites(new), same_run=True)
    assert (diff.between_s, diff.per_hour(7)) == (3600, 7)
    assert not [note for note in notes(diff) if "executed" in note]
    other_run = compare(go_sites(GROWING), go_sites(new))
    assert not [note for note in notes(other_run) if "executed" in note]


def exported(name: str, diff: Diff) -> bytes:
    output = io.BytesIO()
    write_diff(name, diff, NAMES, output)
    return output.getvalue()


def test_a_flame_graph_counts_goroutines() -> None:
    page = exported("flamegraph", compare(PLAIN, PLAIN_LATER)).decode()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert found is not None
    part: Any = json.loads(found[1])["parts"][0]
    assert (part["name"], part["noun"]) == ("goroutines", "goroutine")
    assert {one["unit"] for one in part["quantities"]} == {"blocks"}


def test_pprof_has_what_they_wait_for() -> None:
    profile = read_pprof(exported("pprof", compare(PLAIN, PLAIN_LATER)))
    assert "chan receive" in {label.get("state") for label in profile.labels}
