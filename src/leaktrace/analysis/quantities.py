"""What a site can be measured by: the values that views, exports and diffs show.

Each is a whole number, in bytes or blocks, so that it adds up over sites.
"""

from __future__ import annotations

from enum import StrEnum

from leaktrace.model import Site


class Quantity(StrEnum):
    """One figure of a site. The values are the words of the command line."""

    IN_USE = "in-use"  # bytes outstanding
    IN_USE_BLOCKS = "in-use-blocks"
    ALLOCATED = "allocated"  # bytes since tracing began
    ALLOCATED_BLOCKS = "allocated-blocks"
    FREED = "freed"  # bytes since tracing began
    FREED_BLOCKS = "freed-blocks"

    @property
    def is_bytes(self) -> bool:
        """Whether it is in bytes; otherwise in blocks."""
        return self in (Quantity.IN_USE, Quantity.ALLOCATED, Quantity.FREED)

    @property
    def in_words(self) -> str:
        """In words, with the unit."""
        return _TITLES[self]

    def of(self, site: Site) -> int:
        """The figure of a site, in bytes or blocks."""
        return int(getattr(site, _FIELDS[self]))


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
}
