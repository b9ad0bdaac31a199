"""The blocks that are older than the trace (--heap), in words and as JSON.

from before tracing began: 1.2 GiB in 310,400 blocks; stopped for 131 ms
  nothing points to 21,000 of them (5.0 MiB):
     5.0 MiB 100%  21,000 × 248 B          shop::Session
  by what they begin with:
     …
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from leaktrace import units
from leaktrace.heap_report import Amount, OlderBlocks
from leaktrace.model import Report
from leaktrace.printable import printable
from leaktrace.report.groups_json import amount_object, group_object
from leaktrace.report.heap_text import group_lines, others_line
from leaktrace.report.layout import wrapped
from leaktrace.report.reach import share_object

_OLD_S = 1.0  # it is said how old a look is


def older_lines(report: Report, width: int) -> Iterator[Text]:
    """What they are, for each process."""
    for one in report.older_blocks:
        yield from _lines(one, width, is_one=len(report.older_blocks) == 1)
        yield Text()


def _lines(one: OlderBlocks, width: int, *, is_one: bool) -> Iterator[Text]:
    who = "" if is_one else f"pid {one.pid}, "
    if one.in_use is None:
        text = f"not known: {printable(one.problem)}"
        yield from wrapped(f"{who}from before tracing began: ", text, width, "yellow")
        return
    what = "without a record" if one.may_be_newer else "from before tracing began"
    text = f"{units.size(one.in_use.bytes)} in {units.counted(one.in_use.count, 'block')}"
    if one.unjudged_count:
        text += f", and {units.number(one.unjudged_count)} that a call was allocating or freeing"
    if one.pause_s is not None:
        text += f"; stopped for {units.duration(round(one.pause_s * 1e9))}"
    if one.age_s >= _OLD_S:
        text += f", {units.age(round(one.age_s * 1e9))} ago"
    if one.unread_bytes:
        text += f"; {units.size(one.unread_bytes)} could not be read"
    yield from wrapped(f"{who}{what}: ", text, width, "bold")
    for why in one.may_be_newer:
        yield from wrapped("  some may be newer: ", printable(why), width, "yellow")
    if not one.in_use.count:
        return
    yield from _lost_lines(one, width)
    yield from wrapped("  ", "by what they begin with:", width)
    for group in one.groups:
        yield from group_lines(group, group.amount, one.in_use.bytes, width)
    yield from others_line(one.group_count - len(one.groups), "")


def _lost_lines(one: OlderBlocks, width: int) -> Iterator[Text]:
    lost = one.lost
    lost_bytes = lost.definite_bytes + lost.indirect_bytes
    if not lost.definite_count:
        yield from wrapped("  ", "something points to each of them", width)
        return
    text = f"nothing points to {units.number(lost.definite_count)} of them"
    if lost.indirect_count:
        text += f", and only they lead to {units.counted(lost.indirect_count, 'other block')}"
    yield from wrapped("  ", f"{text} ({units.size(lost_bytes)}):", width, "bold red")
    for group in one.lost_groups:
        share = group.lost
        amount = Amount(share.definite_count, share.definite_bytes + share.indirect_bytes)
        yield from group_lines(group, amount, lost_bytes, width, of_lost=True)
    yield from others_line(one.lost_group_count - len(one.lost_groups), "")


def older_objects(report: Report) -> list[dict[str, Any]]:
    """The same as JSON."""
    return [
        {
            "pid": one.pid,
            "command": printable(one.command),
            "allocator": one.allocator or None,
            "in_use": amount_object(one.in_use),
            "lost": None if one.in_use is None else share_object(one.lost),
            "lost_group_count": one.lost_group_count,
            "lost_groups": [group_object(group) for group in one.lost_groups],
            "group_count": one.group_count,
            "groups": [group_object(group) for group in one.groups],
            "unjudged_count": one.unjudged_count,
            "age_s": round(one.age_s, 3),
            "pause_ms": None if one.pause_s is None else round(one.pause_s * 1000, 3),
            "read_bytes": one.read_bytes,
            "unread_bytes": one.unread_bytes,
            "took_s": round(one.took_s, 3),
            "may_be_newer": [printable(why) for why in one.may_be_newer],
            "problem": printable(one.problem),
        }
        for one in report.older_blocks
    ]
