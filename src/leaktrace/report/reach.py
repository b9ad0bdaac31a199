"""What the memory of the process says about its blocks (--lost), in words and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from math import ceil
from typing import Any

from rich.text import Text

from leaktrace import units
from leaktrace.printable import printable
from leaktrace.reach import LostShare, ReachInfo
from leaktrace.report.layout import wrapped


def reach_lines(reach: ReachInfo, width: int, about: str = "") -> Iterator[Text]:
    """How many blocks were looked at, what was found, and whether it was right until now. `about`:
    what stands before estimates."""
    share = reach.lost
    found = [
        f"{about}{units.number(count)} {what}"
        for count, what in (
            (share.definite_count, "definitely lost"),
            (share.led_count, "indirectly"),
            (share.possible_count, "possibly"),
            (share.reachable_count, "reachable"),
        )
        if count
    ]
    if reach.passes:
        text = f"{about}{units.counted(share.scanned_count, 'block')}"
        text += f": {', '.join(found)}" if found else ""
        text += f"; read {units.size(reach.read_bytes)} in {reach.took_s:.1f} s"
        if reach.passes > 1:
            text += f" and {reach.passes} passes"
        if reach.pause_s is not None:
            text += f"; stopped for {units.duration(ceil(reach.pause_s * 1e9))}"
            if reach.heap_is_known:
                text += ", all of its heap known"
        if reach.unread_bytes:
            text += f", {units.size(reach.unread_bytes)} can't be read"
        yield from wrapped("memory: ", text, width)
    if reach.lost_then_freed:
        called = units.counted(reach.called_lost, "block")
        text = f"of {called} that reports called lost, {reach.lost_then_freed:,} were freed later"
        yield from wrapped("wrong: ", text, width, "bold yellow")
    if reach.late_unread_count:
        blocks = units.counted(reach.late_unread_count, "new block")
        text = (
            f"{blocks} ({units.size(reach.late_unread_bytes)}) came meanwhile and were not read: "
        )
        text += "what only they hold has no way (--holders)"
        yield from wrapped("memory: ", text, width, "yellow")
    if reach.unkept_words:
        text = f"{reach.unkept_words:,} words that may lead to blocks that came meanwhile were not "
        text += "kept: what is held by these alone has no way (--holders)"
        yield from wrapped("memory: ", text, width, "yellow")
    for problem in reach.problems:
        yield from wrapped("memory: ", printable(problem), width, "yellow")


def share_object(share: LostShare | None) -> dict[str, Any] | None:
    """The JSON object of the blocks of a site."""
    return None if share is None else asdict(share)


def reach_object(reach: ReachInfo) -> dict[str, Any]:
    """The JSON object of a look at the memory."""
    return {
        "lost": share_object(reach.lost),
        "called_lost": reach.called_lost,
        "lost_then_freed": reach.lost_then_freed,
        "age_s": round(reach.age_s, 3),
        "passes": reach.passes,
        "read_bytes": reach.read_bytes,
        "unread_bytes": reach.unread_bytes,
        "took_s": round(reach.took_s, 3),
        "pause_ms": None if reach.pause_s is None else round(reach.pause_s * 1000, 3),
        "heap_is_known": reach.heap_is_known,
        "late_unread_count": reach.late_unread_count,
        "late_unread_bytes": reach.late_unread_bytes,
        "unkept_words": reach.unkept_words,
        "problems": [printable(one) for one in reach.problems],
    }
