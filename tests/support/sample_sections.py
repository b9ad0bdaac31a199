"""Reports with sections: about other memory, pairs of functions, and file descriptors."""

from __future__ import annotations

from dataclasses import replace

from sample_reports import BUSY, CACHE_SITE, PARSE_SITE, QUIET, S

from leaktrace.memory import OTHER_MEMORY, Backing
from leaktrace.model import DescriptorInfo, DescriptorUse, PairInfo
from leaktrace.site import Allocation, OpenDescriptor, StackEnd, Total

_SECTION = replace(
    BUSY,
    number=1,
    growth_bytes=None,
    resident=None,
    explained=None,
    losses=(),
    allocations=None,
    younger=Total(),
    site_count=1,
    stack_ends={StackEnd.COMPLETE: 1},
)
MEMORY = replace(
    QUIET,
    other_memory=(
        replace(
            _SECTION,
            section=OTHER_MEMORY[Backing.SYSV],
            backing=Backing.SYSV,
            outstanding=Total(),
            site_count=0,
            sites=(),
            stack_ends={},
        ),
        replace(
            _SECTION,
            section=OTHER_MEMORY[Backing.SHARED_FILE],
            backing=Backing.SHARED_FILE,
            outstanding=Total(12_582_912, 12_288),
            growth_bytes=524_288,
            sites=(PARSE_SITE,),
            allocations=(Allocation(0x7F3A40001000, 4096, 250 * S, PARSE_SITE.id),),
        ),
        replace(
            _SECTION,
            section=OTHER_MEMORY[Backing.BREAK],
            backing=Backing.BREAK,
            outstanding=Total(CACHE_SITE.bytes, CACHE_SITE.count),
            sites=(CACHE_SITE,),
        ),
    ),
)
PAIRS = replace(
    QUIET,
    sections=(
        replace(
            _SECTION,
            section="buffer_get",
            outstanding=Total(12_582_912, 12_288),
            sites=(PARSE_SITE,),
            pair=PairInfo("buffer_get", "buffer_put", ("httpd",), is_sized=True),
        ),
        replace(
            _SECTION,
            section="ssl:SSL_new",
            outstanding=Total(1_204, 1_204),  # bytes are counts
            growth_bytes=-3,
            sites=(
                replace(
                    CACHE_SITE,
                    bytes=1_204,
                    count=1_204,
                    growth_bytes=-3,
                    allocated_bytes=2_000,
                    allocated_count=2_000,
                    freed_bytes=796,
                    freed_count=796,
                ),
            ),
            allocations=(Allocation(0x55D0C1000010, 1, 3 * S, CACHE_SITE.id),),
            pair=PairInfo(
                "SSL_new",
                "SSL_free",
                ("libssl.so.3", "libssl.so.1.1"),
                other_releases=12,
                returned_again=1,
            ),
        ),
        replace(
            _SECTION,
            section="plugin.so:open",
            outstanding=Total(),
            site_count=0,
            sites=(),
            stack_ends={},
            pair=PairInfo("open", "close"),
        ),
    ),
)
DESCRIPTORS = replace(
    QUIET,
    sections=(
        replace(
            _SECTION,
            section="file descriptors",
            outstanding=Total(312, 312),  # bytes are counts
            growth_bytes=12,
            site_count=2,
            sites=(
                replace(
                    PARSE_SITE,
                    bytes=309,
                    count=309,
                    growth_bytes=12,
                    allocated_bytes=400,
                    allocated_count=400,
                    freed_bytes=91,
                    freed_count=91,
                    kinds=(("socket", 309),),
                    examples=(
                        OpenDescriptor(17, "socket", 60 * S, "socket:[81234]"),
                        OpenDescriptor(18, "socket", 59 * S, "socket:[81240]"),
                        OpenDescriptor(21, "socket", 58 * S),
                    ),
                ),
                replace(
                    CACHE_SITE,
                    bytes=3,
                    count=3,
                    growth_bytes=0,
                    allocated_bytes=3,
                    allocated_count=3,
                    freed_bytes=0,
                    freed_count=0,
                    kinds=(("file", 2), ("pipe", 1)),
                    examples=(
                        OpenDescriptor(3, "file", 5 * S, "/var/log/\x1b[31m\n"),
                        OpenDescriptor(4, "pipe", 4 * S, "pipe:[81111]"),
                    ),
                ),
            ),
            allocations=(Allocation(17, 1, 60 * S, PARSE_SITE.id),),
            descriptors=DescriptorInfo(
                use=(DescriptorUse(4242, 1_012, 1_024, older=700, unexplained=2),),
                unseen_closes=1,
            ),
        ),
    ),
)
