"""A report about a process that maps memory and has threads."""

from __future__ import annotations

from dataclasses import replace

from sample_reports import BUSY, CACHE_SITE, PARSE_SITE, S

from leaktrace.memory import RegionBytes
from leaktrace.model import ThreadStacks
from leaktrace.site import Total

MIB = 1 << 20
_RESERVED = replace(
    CACHE_SITE,
    bytes=64 * MIB,
    count=1,
    growth_bytes=0,
    allocated_bytes=64 * MIB,
    allocated_count=1,
    freed_bytes=0,
    freed_count=0,
    regions=RegionBytes(1, 64 * MIB, 135_168),
)
_PARTLY_KNOWN = replace(
    _RESERVED,
    id="2222222222222222",
    bytes=8 << 30,
    count=3,
    regions=RegionBytes(3, 8 << 30, 5 * MIB, 2 * MIB, 4 << 20),
)
_CREATES_THREADS = replace(
    _RESERVED,
    id="3333333333333333",
    verdict=None,
    bytes=96 * MIB,
    count=12,
    regions=RegionBytes(12, 96 * MIB, 1_153_434),
)
_OTHERS = RegionBytes(2, 2 * MIB, 0, 0, 2 * MIB)  # of which nothing is known
_SITES = (PARSE_SITE, _PARTLY_KNOWN, _RESERVED)
REGIONS = replace(
    BUSY,
    number=1,
    growth_bytes=None,
    allocations=None,
    losses=(),
    younger=Total(),
    outstanding=Total(
        sum(site.bytes for site in (*_SITES, _CREATES_THREADS)) + _OTHERS.reserved,
        sum(site.count for site in (*_SITES, _CREATES_THREADS)) + _OTHERS.count,
    ),
    sites=_SITES,
    site_count=5,
    regions=RegionBytes(18, (8 << 30) + 162 * MIB, 6 * MIB, 2 * MIB, 6 * MIB, 2 * S),
    thread_stacks=ThreadStacks(
        _CREATES_THREADS.regions or RegionBytes(),
        (_CREATES_THREADS,),
        1,
        each_bytes=8 * MIB,
        idle_count=3,
        idle_bytes=24 * MIB,
        is_detailed=True,
    ),
    other_regions=_OTHERS,
)
assert REGIONS.explained is not None
REGIONS = replace(
    REGIONS,
    explained=replace(
        REGIONS.explained,
        outstanding=REGIONS.outstanding.bytes,
        outstanding_held=REGIONS.held_bytes,
        unexplained=REGIONS.explained.resident_growth - REGIONS.held_bytes,
    ),
)
