"""Groups of blocks of a heap as JSON: of `leaktrace heap`, and of --heap."""

from __future__ import annotations

from leaktrace.heap_report import Amount, BlockGroup
from leaktrace.printable import printable
from leaktrace.report.holders import holder_objects
from leaktrace.report.json_sites import Object
from leaktrace.report.reach import share_object


def amount_object(amount: Amount | None) -> Object | None:
    """An amount; None if it is not known."""
    return None if amount is None else {"count": amount.count, "bytes": amount.bytes}


def group_object(one: BlockGroup) -> Object:
    """A group of blocks."""
    shown: Object = {
        "kind": one.kind.value,
        "name": printable(one.name),
        "text": printable(one.text),
        "least_bytes": one.least_bytes,
        "most_bytes": one.most_bytes,
        **(amount_object(one.amount) or {}),
        "since_first": amount_object(one.since_first),
        "since_previous": amount_object(one.since_previous),
        "lost": share_object(one.lost),
        "lost_since_first": amount_object(one.lost_since_first),
        "sample_address": f"{one.sample_address:#x}",
    }
    if one.holders:
        shown["holders"] = holder_objects(one.holders)
    return shown
