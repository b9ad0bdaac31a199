"""How long blocks of a site lived that were freed, in sentences and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from leaktrace import units
from leaktrace.printable import printable
from leaktrace.report.names import module_name
from leaktrace.site import Site, Stack
from leaktrace.verdict import Lifetimes

_FEW = 100  # blocks; of fewer, there is no hundredth part


def lifetimes_in_words(site: Site, elapsed_ns: int | None = None) -> str:
    """How many blocks were freed, and how soon: "7,412 freed, 99% within 17 ms". "" if it isn't
    known. Of a sample, the number is an estimate, and the share is that of the sample. No block has
    lived longer than `elapsed_ns`."""
    lived = site.lifetimes
    if lived is None:
        return ""
    freed = "closed" if site.kinds else "freed"
    if not lived.total:
        return f"none {freed}"
    share = "all" if lived.total < _FEW else "99%"
    bound_ns = lived.within_ns(1.0 if lived.total < _FEW else 0.99)
    within = units.duration(bound_ns if elapsed_ns is None else min(bound_ns, elapsed_ns))
    if site.error is not None:
        estimate = max(site.freed_count, 1)
        return f"about {estimate:,} freed, {share} of {lived.total:,} sampled within {within}"
    # The two were read one after the other.
    return f"{max(site.freed_count, lived.total):,} {freed}, {share} within {within}"


def freed_at_in_words(site: Site) -> Iterator[str]:
    """Who frees blocks of a site, a line each: "freed at close_request http/server.c:91: 12,004 of
    34,122"."""
    for one in site.freed_at:
        yield f"freed at {_place(one.stack)}: {one.count:,} of {one.of_count:,}"


def _place(stack: Stack) -> str:
    """The function that frees, and where it does."""
    if not stack.frames:
        return "a stack that is not known"
    frame = stack.frames[0]
    name = frame.function or f"{frame.address:#x}"
    if frame.source is not None:
        where = f" {frame.source.file}:{frame.source.line}"
    else:
        where = "" if frame.module is None else f" [{module_name(frame.module)}]"
    return printable(f"{name}{where}")


def lifetimes_as_json(lived: Lifetimes | None) -> dict[str, Any] | None:
    """The histogram without its empty parts; None if the lifetimes are not known."""
    if lived is None:
        return None
    filled = [(power, count) for power, count in enumerate(lived.counts) if count]
    return {
        "freed_count": lived.total,
        "upper_bounds_ns": [1 << power for power, _ in filled],
        "counts": [count for _, count in filled],
    }
