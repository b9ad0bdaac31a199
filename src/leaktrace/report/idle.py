"""Which memory the process does not use (--idle), in words and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.text import Text

from leaktrace import units
from leaktrace.idle import IdleInfo, IdleShare
from leaktrace.printable import printable
from leaktrace.report.layout import wrapped


def idle_in_words(share: IdleShare, idle: IdleInfo) -> str:
    """How much of a site is on pages that were not touched."""
    period = units.period(idle.for_s)
    pages = units.counted(share.looked_pages, "watched page")
    if not share.idle_pages:
        whole = f"each of {pages}" if share.looked_pages > 1 else "the only watched page"
        return f"used: {whole} was touched within {period}"
    part = units.share(share.idle_bytes, share.looked_bytes)
    return f"{part} on pages not touched for {period} ({share.idle_pages:,} of {pages})"


def idle_lines(idle: IdleInfo, width: int) -> Iterator[Text]:
    """How many pages were watched, and for how long."""
    period = units.period(idle.for_s)
    watched = units.counted(idle.watched_pages, "watched page")
    if idle.known_pages:
        text = f"{idle.idle_pages:,} of {idle.known_pages:,} pages not touched for {period}; "
        text += watched
        yield from wrapped("idle: ", text, width)
    elif not idle.problems:
        text = f"not known yet: {watched}, for {int(idle.watched_s)} s of {period} until now"
        yield from wrapped("idle: ", text, width)
    for problem in idle.problems:
        yield from wrapped("idle: ", f"not known: {printable(problem)}", width, "yellow")


def idle_share_object(share: IdleShare) -> dict[str, Any]:
    """The JSON object of the pages of a site."""
    return asdict(share)


def idle_object(idle: IdleInfo) -> dict[str, Any]:
    """The JSON object of all watched pages."""
    return {
        "for_s": idle.for_s,
        "watched_pages": idle.watched_pages,
        "known_pages": idle.known_pages,
        "idle_pages": idle.idle_pages,
        "watched_s": round(idle.watched_s, 3),
        "age_s": round(idle.age_s, 3),
        "problems": [printable(one) for one in idle.problems],
    }
