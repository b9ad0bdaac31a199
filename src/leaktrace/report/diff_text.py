"""Two reports compared, for people: the verdict first, then the sites that explain it.

leaktrace diff  httpd
  base  v1.rec@last: report 40, 10m00s after tracing began, pid 4242
  new   v2.rec@last: report 41, 10m12s after tracing began, pid 5151
MORE +18.2 MiB (24.3 MiB -> 42.5 MiB): one site explains 94% of it, parse_header parser.c:118
sites matched: 35 by id, 2 by names; 1 came, 3 went

  grew  +17.1 MiB  12.0 MiB -> 29.1 MiB  +12,288 blocks  6f1d2a
    parse_header+0x2f   http/parser.c:118  [libparse.so.1]
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.text import Text

from leaktrace import units
from leaktrace.analysis.comparing.changes import Change, Diff, PartDiff, SiteChange
from leaktrace.analysis.comparing.matching import Rule
from leaktrace.analysis.quantities import Quantity
from leaktrace.model import Measure, Report
from leaktrace.printable import printable
from leaktrace.report.diff_notes import has_different_times, notes
from leaktrace.report.figures import quantity_in_words
from leaktrace.report.folding import folded
from leaktrace.report.frames import frame_lines
from leaktrace.report.go_heap_diff import go_heap_parts, go_heap_totals
from leaktrace.report.layout import flowed, wrapped
from leaktrace.report.names import shorten_middle
from leaktrace.report.place_names import difference_in_words, value_in_words
from leaktrace.report.site_ids import ShortIds
from leaktrace.report.site_lines import STACK_ENDS, kernel_lines
from leaktrace.report.styles import change_style
from leaktrace.report.verdicts import rate_in_words, where_in_words
from leaktrace.verdict import LEAKING

RULES = {
    Rule.ID: "by id",
    Rule.CODE: "by code (but for code without a file)",
    Rule.NAMES: "by names (other builds)",
    Rule.LINES: "by names and lines",
    Rule.MERGED: "taken together",
}
_MOST_OF_IT = 0.5  # so much is explained by the sites that are named
_MOST_NAMED = 5
_CLEAR = 2.0  # standard errors


def diff_lines(diff: Diff, names: tuple[str, str], top: int, width: int) -> Iterator[Text]:
    """The lines of a diff, each at most `width` cells wide. `names`: of the two reports."""
    title = Text().append("leaktrace", "bold")
    title.append(f" diff  {target_in_words(diff.new, width)}", "bold cyan")
    yield from flowed([title], width)
    for label, name, report in zip(("base", "new"), names, (diff.base, diff.new), strict=True):
        yield from wrapped(f"  {label:<4}  ", f"{name}: {moment(report)}", width)
    if diff.go_heap is not None:
        yield from go_heap_totals(diff.go_heap, width)
    for number, part in enumerate(diff.parts):
        if number and not (part.changes or part.base.everything or part.new.everything):
            continue  # a section with nothing in it
        yield from _verdict(part, diff, width)
        yield from _about_sites(part, width)
        for note in () if number else notes(diff):
            yield from wrapped("note: ", note, width, "yellow")
        yield Text()
        if not number and diff.go_heap is not None:
            yield from go_heap_parts(diff.go_heap, top, width)
        yield from _changes(part, diff, top, width)


def target_in_words(report: Report, width: int) -> str:
    """What was traced, in at most half of the line."""
    return shorten_middle(printable(report.target.command), width // 2)


def moment(report: Report) -> str:
    """Which report it is: "report 3, 15.0 s after tracing began, pid 4242"."""
    target = report.target
    whose = "" if target.kind == "kernel" else f", pid {target.pid}"
    if len(target.pids) > 1:
        whose = f", {len(target.pids)} processes"
    when = units.elapsed(report.elapsed_s)
    since = "the first look" if report.measure.is_of_go else "tracing began"
    return f"report {report.number}, {when} after {since}{whose}"


def _about_sites(part: PartDiff, width: int) -> Iterator[Text]:
    """Which are compared, and how they were matched."""
    if part.new.filtered or part.base.filtered:
        shown = difference_in_words(part.shown_difference, part.new.quantity)
        total = difference_in_words(part.difference, part.new.quantity)
        yield from wrapped("shown: ", f"{shown} of {total} (--focus, --ignore)", width, "yellow")
    yield from wrapped("sites matched: ", _matched(part), width)


def _changes(part: PartDiff, diff: Diff, top: int, width: int) -> Iterator[Text]:
    """The sites that have changed, those that have grown most first."""
    changed = [one for one in part.changes if one.change is not Change.SAME]
    rows = [_figures(one, part, diff) for one in changed[:top]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    ids = ShortIds(one.site.id for one in part.changes)
    for one, row in zip(changed, rows, strict=False):
        yield from _site(one, row, widths, width, ids)
    yield from _others(part, changed[top:], width)


def _verdict(part: PartDiff, diff: Diff, width: int) -> Iterator[Text]:
    quantity, difference = part.new.quantity, part.difference
    rates = None if diff.same_run else _rates(part)
    if rates is not None:
        yield from wrapped(*rates[:2], width, rates[2])
    totals = " -> ".join(_value(one.everything, part) for one in (part.base, part.new))
    name = part.new.report.section
    if part.new.report.measure is Measure.GOROUTINES:
        name = "goroutines"  # also where there is nothing else
    section = f"{printable(name)}: " if name else ""
    mark = _mark(part)
    change = mark + difference_in_words(difference, quantity)
    if part.error is not None:
        error = round(part.error)
        change += f" ±{units.size(error) if quantity.is_bytes else units.number(error)}"
    rate = diff.per_hour(difference)
    over = ""
    if rate is not None and diff.between_s is not None and difference:
        over = f", {difference_in_words(round(rate), quantity)}/h"
        over = f" in {units.elapsed(diff.between_s)}{over}"
    if difference == 0:
        grown = sum(one.change is not Change.SAME for one in part.changes)
        beside = f", though {units.counted(grown, 'site')} changed" if grown else ""
        word, text = "SAME ", f"{totals.partition(' -> ')[0]}{beside}"
    elif not part.is_clear:
        word = "UNCLEAR "
        text = f"{change} ({totals}): this may be chance, because the figures are estimates"
    else:
        word = "MORE " if difference > 0 else "LESS "
        text = f"{change}{over} ({totals}){_explained(part)}"
    if quantity is not Quantity.IN_USE and quantity is not Quantity.IN_USE_BLOCKS:
        text += f"; {quantity_in_words(quantity, part.new.report)}"
    style = {"MORE ": "bold red", "LESS ": "bold green"}.get(word, "bold")
    if rates is not None or has_different_times(diff):
        style = "bold"  # what is held says little then
    yield from wrapped(section + word, text, width, style)


def _rates(part: PartDiff) -> tuple[str, str, str] | None:
    """How fast each run grew, if both say so: a word, both rates, a style."""
    verdicts = [one.report.verdict for one in (part.base, part.new)]
    if part.new.quantity is not Quantity.IN_USE:
        return None
    if any(one is None or one.kind not in LEAKING or one.bytes_per_s is None for one in verdicts):
        return None
    reports = [one.report for one in (part.base, part.new)]
    shown = [
        rate_in_words(one, report)
        for one, report in zip(verdicts, reports, strict=True)
        if one is not None
    ]
    base, new = (one.bytes_per_s or 0.0 for one in verdicts if one is not None)
    errors = [one.error_bytes_per_s or 0.0 for one in verdicts if one is not None]
    if abs(new - base) <= _CLEAR * math.hypot(*errors):
        return None
    if new > base:
        return "GROWS FASTER ", " -> ".join(shown), "bold red"
    return "GROWS SLOWER ", " -> ".join(shown), "bold yellow"


def _explained(part: PartDiff) -> str:
    """Which sites make up the difference."""
    sign = 1 if part.difference > 0 else -1
    same = [one for one in part.changes if one.difference * sign > 0]
    other = sum(one.difference for one in part.changes if one.difference * sign < 0)
    if not same:
        return ": at none of the sites that are shown"
    explained = 0
    named: list[SiteChange] = []
    for one in same[:_MOST_NAMED]:
        named.append(one)
        explained += one.difference
        if abs(explained) >= _MOST_OF_IT * abs(part.difference):
            break
    share = units.share(abs(explained), abs(part.difference))
    where = where_in_words(named[0].stack)
    if share and abs(explained) < _MOST_OF_IT * abs(part.difference):
        first = units.share(abs(named[0].difference), abs(part.difference))
        at = f" ({where})" if where else ""
        return f": spread over {len(same):,} sites, of which the first{at} explains {first}"
    count = "one site" if len(named) == 1 else f"{len(named)} sites"
    if share:
        verb = "explains" if len(named) == 1 else "explain"
        first = f", {'the first ' if len(named) > 1 else ''}{where}" if where else ""
        return f": {count} {verb} {share} of it{first}"
    quantity = part.new.quantity
    changed = difference_in_words(explained, quantity)
    at = f" ({where})" if where else ""
    others = difference_in_words(other, quantity)
    return f": {changed} at {count}{at}, {others} at others"


def _matched(part: PartDiff) -> str:
    found = [f"{part.rules[rule]:,} {words}" for rule, words in RULES.items() if part.rules[rule]]
    kinds = [one.change for one in part.changes]
    alone = [
        f"{kinds.count(kind):,} {kind.value}"
        for kind in (Change.CAME, Change.WENT)
        if kind in kinds
    ]
    return "; ".join(filter(None, (", ".join(found) or "none", ", ".join(alone))))


def _mark(part: PartDiff) -> str:
    return "~" if part.base.report.is_estimate or part.new.report.is_estimate else ""


def _value(value: int, part: PartDiff) -> str:
    return _mark(part) + value_in_words(value, part.new.quantity)


def _figures(one: SiteChange, part: PartDiff, diff: Diff) -> tuple[str, ...]:
    quantity, mark = part.new.quantity, _mark(part)
    rate = diff.per_hour(one.difference)
    count = one.new.held.count - one.base.held.count
    noun = "object" if part.new.report.measure is Measure.GO_HEAP else "block"
    if quantity.is_bytes:
        beside = f"{mark}{count:+,} {noun}{'' if abs(count) == 1 else 's'}"
    else:
        beside = printable(one.site.state or "")  # of goroutines
    return (
        one.change.value,
        mark + difference_in_words(one.difference, quantity),
        f"{_value(one.base_value, part)} -> {_value(one.new_value, part)}",
        beside,
        "" if rate is None else f"{mark}{difference_in_words(round(rate), quantity)}/h",
    )


def _site(
    one: SiteChange, row: Sequence[str], widths: Sequence[int], width: int, ids: ShortIds
) -> Iterator[Text]:
    styles = ("", f"bold {change_style(one.difference)}", "", "", "")
    fields = []
    for at, (text, cells, style) in enumerate(zip(row, widths, styles, strict=True)):
        if cells:
            fields.append(Text(text.ljust(cells) if at == 0 else text.rjust(cells), style.strip()))
    line = Text("  ") + Text("  ").join(fields)
    site_id = ids.of(one.site.id)
    if line.cell_len + 2 + len(site_id) <= width:
        line.append(f"  {site_id}", "dim")
    if line.cell_len <= width:
        yield line
    else:
        yield from flowed([Text("  ") + fields[0], *fields[1:]], width)
    if one.match.rule is Rule.MERGED:
        counts = f"{len(one.match.base)} call sites of base and {len(one.match.new)} of new"
        text = f"taken together: {counts} have these names, and nothing says which is which"
        yield from wrapped("    ", text, width)
    if one.error is not None:
        yield from wrapped("    ", f"standard error ±{units.size(one.error.bytes)}", width)
    # How much is lost to rounding up is about one report, not about the difference.
    of_kernel = replace(one.site, requested_bytes=None, unconfirmed=one.unconfirmed)
    yield from kernel_lines(of_kernel, width)
    for frame in frame_lines(folded(one.stack.frames), width - 4):
        yield Text("    ").append_text(frame)
    if one.stack.end in STACK_ENDS:
        yield from wrapped("    (", f"{STACK_ENDS[one.stack.end]})", width, "yellow")
    yield Text()


def _others(part: PartDiff, others: Sequence[SiteChange], width: int) -> Iterator[Text]:
    """What has changed at sites that are not shown, and what has not."""
    quantity = part.new.quantity
    lines = []
    if others:
        change = difference_in_words(sum(one.difference for one in others), quantity)
        label = "the other site" if len(others) == 1 else f"the other {len(others):,} sites"
        lines.append(f"{label} that changed: {change}")
    same = [one for one in part.changes if one.change is Change.SAME]
    if same:
        held = _value(sum(one.new_value for one in same), part)
        lines.append(f"unchanged: {units.counted(len(same), 'site')}, {held}")
    base, new = ({one.what: one.value for one in side.elsewhere} for side in (part.base, part.new))
    for what in {**base, **new}:
        moved = new.get(what, 0) - base.get(what, 0)
        if moved:
            words = difference_in_words(moved, quantity)
            lines.append(f"at no site of the lists, {what}: {words}")
    for line in lines:
        yield from wrapped("  ", line, width)
    if lines:
        yield Text()
