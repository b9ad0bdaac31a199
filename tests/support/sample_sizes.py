"""A report whose sites know the sizes of their blocks, as in a recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sample_reports import BUSY, CACHE_SITE, LOST_SITE, PARSE_SITE

from leaktrace.site import Site


def sized(site: Site, blocks: Sequence[int]) -> Site:
    """The site with blocks of these sizes, by an account of its own: doubling, not logarithms."""
    counts, held = [0] * 65, [0] * 65
    for size in blocks:
        bits, power = 0, 1
        while power <= size:
            bits, power = bits + 1, 2 * power
        counts[bits] += 1
        held[bits] += size
    filled = [bits for bits in range(65) if counts[bits]]
    end = filled[-1] + 1 if filled else 0
    return replace(
        site,
        bytes=sum(blocks),
        count=len(blocks),
        sizes=tuple(counts[:end]),
        size_bytes=tuple(held[:end]),
    )


# The figures of these sites stay what they are in BUSY.
_PARSE = sized(PARSE_SITE, [64] * 4_096 + [1_504] * 8_192)
_CACHE = sized(CACHE_SITE, [2_097_152])
_LOST = sized(LOST_SITE, [0, 46, 50])
assert [(one.bytes, one.count) for one in (_PARSE, _CACHE, _LOST)] == [
    (one.bytes, one.count) for one in BUSY.sites
]
SIZED = replace(BUSY, sites=(_PARSE, _CACHE, _LOST))
# As an older version recorded it.
WITHOUT_BYTES = replace(SIZED, sites=tuple(replace(site, size_bytes=()) for site in SIZED.sites))
