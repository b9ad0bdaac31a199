"""Two reports compared, for programs: one JSON object, `leaktrace/diff/1`.

The contract is `docs/json.md` with `docs/schema/diff-1.schema.json`: within version 1 fields are
only ever added.
"""

from __future__ import annotations

from leaktrace.analysis.comparing.changes import Change, Diff, Figures, PartDiff, SiteChange
from leaktrace.analysis.comparing.matching import Rule
from leaktrace.model import Report
from leaktrace.printable import printable
from leaktrace.report.diff_notes import notes
from leaktrace.report.go_heap_diff import go_heap_diff_object
from leaktrace.report.json_sites import Object, frame_object, kernel_fields, rounded, total_object
from leaktrace.report.moment_json import moment_object
from leaktrace.report.place_names import unit_of

DIFF_SCHEMA = "leaktrace/diff/1"


def diff_object(diff: Diff, names: tuple[str, str], top: int) -> Object:
    """The JSON object of a diff. `names`: of the two reports; `top`: how many changed sites are
    listed."""
    return {
        "schema": DIFF_SCHEMA,
        "base": named_moment(diff.base, names[0]),
        "new": named_moment(diff.new, names[1]),
        "same_run": diff.same_run,
        "between_s": rounded(diff.between_s),
        "notes": list(notes(diff)),
        **_part(diff.parts[0], diff, top),
        "go_heap": None if diff.go_heap is None else go_heap_diff_object(diff.go_heap, top),
        "sections": [
            {"section": printable(part.new.report.section or ""), **_part(part, diff, top)}
            for part in diff.parts[1:]
        ],
    }


def named_moment(report: Report, name: str) -> Object:
    """Which report it is, and what it was called on the command line."""
    return {"name": printable(name), **moment_object(report)}


def _part(part: PartDiff, diff: Diff, top: int) -> Object:
    quantity = part.new.quantity
    changed = [one for one in part.changes if one.change is not Change.SAME]
    rest = changed[top:]
    same = [one for one in part.changes if one.change is Change.SAME]
    elsewhere: dict[str, int] = {}
    for sign, side in ((-1, part.base), (1, part.new)):
        for one in side.elsewhere:
            key = one.what.replace(" ", "_")
            elsewhere[key] = elsewhere.get(key, 0) + sign * one.value
    return {
        "quantity": quantity.value,
        "unit": unit_of(quantity),
        "base_total": part.base.everything,
        "new_total": part.new.everything,
        "difference": part.difference,
        "per_hour": rounded(diff.per_hour(part.difference)),
        "error": rounded(part.error),
        "is_clear": part.is_clear,
        "shown_difference": part.shown_difference,
        "filtered_difference": part.new.filtered - part.base.filtered,
        "elsewhere_difference": elsewhere,
        "matched": {rule.value: part.rules[rule] for rule in Rule if rule is not Rule.NONE},
        "came": sum(one.change is Change.CAME for one in part.changes),
        "went": sum(one.change is Change.WENT for one in part.changes),
        "incomparable": part.incomparable,
        "sites": [_site(one, diff) for one in changed[:top]],
        "others": {"count": len(rest), "difference": sum(one.difference for one in rest)},
        "unchanged": {"count": len(same), "value": sum(one.new_value for one in same)},
    }


def _site(one: SiteChange, diff: Diff) -> Object:
    shown: Object = {
        "change": one.change.value,
        "rule": one.match.rule.value,
        "base_ids": [printable(site.id) for site in one.match.base],
        "new_ids": [printable(site.id) for site in one.match.new],
        "base_value": one.base_value,
        "new_value": one.new_value,
        "difference": one.difference,
        "per_hour": rounded(diff.per_hour(one.difference)),
        "base": _figures(one.base),
        "new": _figures(one.new),
        "error": None if one.error is None else total_object(one.error),
        "stack_end": one.stack.end.value,
        "frames": [frame_object(frame) for frame in one.stack.frames],
    }
    if one.site.state is not None:  # of goroutines
        shown["state"] = printable(one.site.state)
    if one.site.context is not None:  # in the kernel
        shown |= kernel_fields(one.site, one.unconfirmed)
    return shown


def _figures(figures: Figures) -> Object:
    return {
        "held": total_object(figures.held),
        "allocated": total_object(figures.allocated),
        "freed": total_object(figures.freed),
    }
