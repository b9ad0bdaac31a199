"""Long recordings of a program whose call stacks change all the time, such as one that loads its
plugins again and again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sample_reports import BUSY, NO_LOSSES, PARSE_SITE

from leaktrace.model import Report
from leaktrace.site import Frame, Site, SourceLine, Stack, StackEnd, Total

SITES, FRAMES = 2_000, 3
NEW = SITES // 2  # stacks of each report


def reports(count: int, sites: int = SITES, new: int = NEW) -> Iterator[Report]:
    """Reports of which each has so many new stacks in place of the oldest ones."""
    start = datetime(2026, 3, 1, tzinfo=UTC)
    made: list[Site] = []
    numbers = iter(range(1 << 40))
    for number in range(1, count + 1):
        while len(made) < sites + new:
            made.append(_site(next(numbers)))
        del made[:new]
        # The report in the middle holds most.
        peak = min(number, count + 1 - number) * 1_000
        shown = [replace(one, bytes=one.bytes + peak) for one in made]
        yield replace(
            BUSY,
            time=start + timedelta(minutes=number),
            elapsed_s=60.0 * number,
            number=number,
            final=number == count,
            sites=tuple(shown),
            site_count=len(shown),
            outstanding=Total(sum(one.bytes for one in shown), sum(one.count for one in shown)),
            younger=Total(),
            losses=NO_LOSSES,
        )


def _site(number: int) -> Site:
    frames = tuple(
        Frame(
            0x7F00_0000_0000 + 64 * (FRAMES * number + depth),
            f"handle_{number}_{depth}",
            12,
            f"/usr/lib/plugins/plugin-{number % 97}.so.1",
            64 * (FRAMES * number + depth),
            f"{number % 97:040x}",
            SourceLine(f"/build/plugins/source/{number % 997}.c", number % 900 + 1),
        )
        for depth in range(FRAMES)
    )
    stack = Stack(frames, StackEnd.COMPLETE)
    return replace(PARSE_SITE, id=f"{number:016x}", stack=stack, bytes=64_000 + number, freed_at=())
