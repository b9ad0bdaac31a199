"""Views of a report for programs: one JSON object per line, `leaktrace/view/1`.

The contract is `docs/json.md` with `docs/schema/view-1.schema.json`: within version 1 fields are
only ever added.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from leaktrace.analysis.views.groups import Selection, View
from leaktrace.analysis.views.rows import Held, Row
from leaktrace.analysis.views.trees import Folded, Line, Tree
from leaktrace.model import Report
from leaktrace.printable import printable
from leaktrace.report.diff_notes import what_is_missing
from leaktrace.report.json_sites import Object, frame_object
from leaktrace.report.moment_json import missing_object, moment_object
from leaktrace.report.place_names import place_object, unit_of

VIEW_SCHEMA = "leaktrace/view/1"


def views_object(report: Report, by: str, parts: Sequence[Object]) -> Object:
    """The JSON object of a report seen by `by`. `parts`: of the report itself, then of each of its
    sections (`view_object`, `tree_object`)."""
    return {
        "schema": VIEW_SCHEMA,
        **moment_object(report),
        "incomplete": list(what_is_missing(report)),
        **missing_object(report),
        "by": by,
        **parts[0],
        "sections": [
            {"section": printable(section.section or ""), **part}
            for section, part in zip(
                (*report.sections, *report.other_memory), parts[1:], strict=True
            )
        ],
    }


def view_object(view: View, top: int) -> Object:
    """One part of a report, grouped."""
    rest = view.rows[top:]
    return {
        **_selection(view.selection),
        "notes": [printable(note) for note in view.notes],
        "rows": [_row(row, top) for row in islice(view.rows, top)],
        "others": {"count": len(rest), "own": sum(row.own for row in rest)},
    }


def tree_object(tree: Tree, least_share: float) -> Object:
    """One part of a report as a tree: its nodes with their depths, in order."""
    lines = tree.lines(least_share)
    return {**_selection(tree.selection), "nodes": [_node(line) for line in lines]}


def _selection(selection: Selection) -> Object:
    return {
        "quantity": selection.quantity.value,
        "unit": unit_of(selection.quantity, is_counted=selection.report.is_counted),
        "shown": selection.shown,
        "total": selection.total,
        "shown_sites": len(selection.sites),
        "total_sites": selection.total_sites,
        "elsewhere": {one.what.replace(" ", "_"): one.value for one in selection.elsewhere},
    }


def _row(row: Row, top: int) -> Object:
    shown: Object = {
        **place_object(row.place),
        "own": row.own,
        "total": row.total,
        "site_count": row.site_count,
    }
    if row.site is not None:
        shown["frames"] = [frame_object(frame) for frame in row.site.stack.frames]
    if row.held is not None:
        shown |= _held(row.held)
        shown["sites"] = [
            {
                "site": printable(one.site.id),
                **_held(one.held),
                "frames": [frame_object(frame) for frame in one.site.stack.frames],
            }
            for one in row.shares[:top]
        ]
    return shown


def _held(held: Held) -> Object:
    return {"bytes": held.bytes, "count": held.blocks}


def _node(line: Line) -> Object:
    if isinstance(line.node, Folded):
        return {"depth": line.depth, "value": line.node.value, "folded": line.node.count}
    node = line.node
    return {"depth": line.depth, "value": node.value, "own": node.own, **place_object(node.place)}
