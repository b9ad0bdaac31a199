"""What a site can be measured by: the values that views, exports and diffs show.

Each is a whole number, in bytes, blocks or bytes per hour, so that it adds up over sites.
"""

from __future__ import annotations

from enum import StrEnum

from leaktrace.errors import UsageError
from leaktrace.model import Measure, Report
from leaktrace.site import Site


class Quantity(StrEnum):
    """One figure of a site. The values are the words of the command line."""

    IN_USE = "in-use"  # bytes outstanding
    IN_USE_BLOCKS = "in-use-blocks"
    ALLOCATED = "allocated"  # bytes since tracing began
    ALLOCATED_BLOCKS = "allocated-blocks"
    FREED = "freed"  # bytes since tracing began
    FREED_BLOCKS = "freed-blocks"
    GROWTH = "growth"  # bytes per hour, of sites that have a rate

    @property
    def is_bytes(self) -> bool:
        """Whether it is in bytes, or bytes per hour; otherwise in blocks."""
        return self in (Quantity.IN_USE, Quantity.ALLOCATED, Quantity.FREED, Quantity.GROWTH)

    @property
    def in_words(self) -> str:
        """In words, with the unit."""
        return _TITLES[self]

    def of(self, site: Site) -> int:
        """The figure of a site, in bytes, blocks or bytes per hour; 0 or more."""
        if self is Quantity.GROWTH:
            rate = None if site.verdict is None else site.verdict.bytes_per_s
            return max(0, round((rate or 0.0) * _HOUR_S))
        return int(getattr(site, _FIELDS[self]))


def refuse_counters(report: Report, quantity: Quantity, what: str) -> None:
    """Raises UsageError if a report knows only how many there are, and something else is asked for.
    `what`: is done to the report: "shown"."""
    if report.measure is Measure.GOROUTINES and quantity not in _IN_USE:
        raise UsageError(
            f"goroutines have no counters, so {quantity.in_words} can't be {what}",
            f"leave --quantity out: how many there are is {what}",
        )


_HOUR_S = 3600
_IN_USE = (Quantity.IN_USE, Quantity.IN_USE_BLOCKS)
_FIELDS = {
    Quantity.IN_USE: "bytes",
    Quantity.IN_USE_BLOCKS: "count",
    Quantity.ALLOCATED: "allocated_bytes",
    Quantity.ALLOCATED_BLOCKS: "allocated_count",
    Quantity.FREED: "freed_bytes",
    Quantity.FREED_BLOCKS: "freed_count",
}
_TITLES = {
    Quantity.IN_USE: "bytes in use",
    Quantity.IN_USE_BLOCKS: "blocks in use",
    Quantity.ALLOCATED: "bytes allocated since tracing began",
    Quantity.ALLOCATED_BLOCKS: "blocks allocated since tracing began",
    Quantity.FREED: "bytes freed since tracing began",
    Quantity.FREED_BLOCKS: "blocks freed since tracing began",
    Quantity.GROWTH: "growth in bytes per hour",
}
