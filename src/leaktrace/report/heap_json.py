"""`leaktrace heap` for programs: one JSON object per line, `leaktrace/heap/1`.

The contract is `docs/json.md` with `docs/schema/heap-1.schema.json`: within version 1 fields are
only ever added.
"""

from __future__ import annotations

from leaktrace.heap_report import Account, FreeMemory, HeapReport
from leaktrace.printable import printable
from leaktrace.report.groups_json import amount_object, group_object
from leaktrace.report.json_lines import json_line
from leaktrace.report.json_sites import Object
from leaktrace.report.look_json import look_header
from leaktrace.report.reach import share_object
from leaktrace.report.reporter import Writer

HEAP_SCHEMA = "leaktrace/heap/1"


class HeapJson(Writer):
    """--format json."""

    def heap(self, report: HeapReport) -> None:
        """Write one report and flush it."""
        self.write(json_line(heap_object(report)))


def heap_object(report: HeapReport) -> Object:
    """The JSON object of a report (schema `leaktrace/heap/1`)."""
    return {
        **look_header(HEAP_SCHEMA, report),
        "core": printable(report.core),
        "allocator": report.allocator,
        "thread_count": report.thread_count,
        "problems": [printable(one) for one in report.problems],
        "heap": _figures(report) if report.has_figures else None,
        "account": None if report.account is None else _account(report.account),
        "pause_ms": None if report.pause_s is None else round(report.pause_s * 1000, 3),
        "read_bytes": report.read_bytes,
        "unread_bytes": report.unread_bytes,
        "took_s": round(report.took_s, 3),
        "notes": [printable(note) for note in report.notes],
    }


def _figures(report: HeapReport) -> Object:
    return {
        "in_use": amount_object(report.in_use),
        "since_first": amount_object(report.since_first),
        "since_previous": amount_object(report.since_previous),
        "free_bytes": report.free_bytes,
        "own_bytes": report.own_bytes,
        "overhead_bytes": report.overhead_bytes,
        "lost": share_object(report.lost),
        "lost_since_first": amount_object(report.lost_since_first),
        "lost_group_count": report.lost_group_count,
        "lost_groups": [group_object(one) for one in report.lost_groups],
        "group_count": report.group_count,
        "groups": [group_object(one) for one in report.groups],
        "arena_count": report.arena_count,
        "arenas": [_arena(one) for one in report.arenas],
    }


def _arena(one: FreeMemory) -> Object:
    last = one.last_block
    return {
        "number": one.number,
        "is_main": one.is_main,
        "system_bytes": one.system_bytes,
        "in_use": amount_object(one.in_use),
        "free_bytes": one.free_bytes,
        "top_bytes": one.top_bytes,
        "cached_bytes": one.cached_bytes,
        "trimmable_bytes": one.trimmable_bytes,
        "between_bytes": one.between_bytes,
        "largest_bytes": one.largest_bytes,
        "last_block": None if last is None else {"address": f"{last[0]:#x}", "bytes": last[1]},
    }


def _account(account: Account) -> Object:
    return {
        "resident_bytes": account.resident_bytes,
        "swapped_bytes": account.swapped_bytes,
        "parts": {part.value: size for part, size in account.parts},
    }
