"""What a reader must know about two reports that are compared."""

from __future__ import annotations

from collections.abc import Iterator

from leaktrace import units
from leaktrace.analysis.comparing.changes import Diff
from leaktrace.analysis.comparing.matching import Rule
from leaktrace.analysis.comparing.same_names import command_of
from leaktrace.analysis.views.parts import not_listed
from leaktrace.go_report import GoHeap
from leaktrace.model import Measure, Report
from leaktrace.printable import printable

_SIMILAR = 0.1  # lengths of time that differ by less are not mentioned


def notes(diff: Diff) -> Iterator[str]:
    """Sentences; printable, and on one line each."""
    base, new = diff.base, diff.new
    if command_of(base) != command_of(new):
        yield printable(
            f"different targets, compared because of --force: {base.target.command} and "
            f"{new.target.command}"
        )
    if diff.has_executed:
        yield (
            "the process executed another program between the two reports: two programs are "
            "compared, so there are no rates"
        )
    if base.measure is new.measure is Measure.GOROUTINES:
        without = [
            label
            for label, sections in (("base", diff.only_base), ("new", diff.only_new))
            if all(one.measure is not Measure.GO_HEAP for one in sections)
        ]
        yield (
            "where memory was allocated isn't compared: there is no profile of the heap in "
            f"{' and '.join(without)}"
        )
    heaps = {label for label, one in (("base", base), ("new", new)) if one.go_heap is not None}
    if len(heaps) == 1:
        yield f"the heap as a whole isn't compared: only {heaps.pop()} has one"
    if (base.sample_rate, base.sample_bytes) != (new.sample_rate, new.sample_bytes):
        yield (
            f"different samples: {_sample(base)} in base, {_sample(new)} in new; sites that hold "
            "little may be missing from one of them"
        )
    if diff.between_s is not None and diff.between_s < 0:
        yield "base is the later one of the two reports: what has grown is shown as less"
    if has_different_times(diff):
        yield (
            f"traced for different times: {units.elapsed(base.elapsed_s)} and "
            f"{units.elapsed(new.elapsed_s)}; what grows steadily differs by that alone"
        )
    if base.older_ms != new.older_ms:
        yield f"different age filters: {base.older_ms} ms and {new.older_ms} ms (--older)"
    merged = sum(part.rules[Rule.MERGED] for part in diff.parts)
    if merged:
        yield (
            f"{units.counted(merged, 'group')} of sites taken together: they have the same names "
            "in builds that differ"
        )
    incomparable = sum(part.incomparable for part in diff.parts)
    if incomparable:
        yield (
            f"{units.counted(incomparable, 'site')} can't be compared: code without names, of "
            "another build or without a file; they count as gone and new"
        )
    sides = [[one.base.report for one in diff.parts], [one.new.report for one in diff.parts]]
    for label, parts in zip(("base", "new"), sides, strict=True):
        for number, part in enumerate(parts):
            missing = not_listed(part)
            if missing:
                where = f" of {part.section or 'a section'}" if number else ""
                yield printable(f"{label} doesn't list {units.counted(missing, 'site')}{where}")
        yield from what_is_missing(parts[0], f" in {label}")
        if parts[0].go_heap is not None:
            yield from _what_heap_leaves_out(parts[0].go_heap, label)
    for label, sections in (("base", diff.only_base), ("new", diff.only_new)):
        for section in sections:
            yield printable(f"only in {label}, not compared: {section.section or 'a section'}")


def what_is_missing(report: Report, where: str = "") -> Iterator[str]:
    """Why figures of a report are incomplete, in sentences. `where` it is: " in base"."""
    for remark in report.remarks:
        if remark.kind.is_of_completeness:
            yield printable(f"incomplete{where}: {remark.text}")
    for loss in report.losses:
        if loss.count and loss.is_lost:
            yield printable(f"lost{where}: {units.loss_in_words(loss)}")


def _what_heap_leaves_out(heap: GoHeap, label: str) -> Iterator[str]:
    spans, types = heap.look.skipped_span_count, heap.look.types
    if spans:
        left = units.counted(spans, "span")
        yield f"incomplete in {label}: {left} of the heap left out: changed at each read"
    if types is not None and types.not_read_count:
        left = units.counted(types.not_read_count, "object")
        yield f"incomplete in {label}: {left} whose types were not looked at"


def has_different_times(diff: Diff) -> bool:
    """Whether two runs were traced for different times."""
    if diff.base.measure.is_of_go:  # its figures count from elsewhere
        return False
    times = sorted((diff.base.elapsed_s, diff.new.elapsed_s))
    return not diff.same_run and times[1] - times[0] > _SIMILAR * times[1]


def _sample(report: Report) -> str:
    return units.sample_in_words(report) if report.is_estimate else "every allocation is recorded"
