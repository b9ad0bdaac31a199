"""Reports and events built by hand, and what a format makes of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from leaktrace.memory import (
    Explained,
    HugePages,
    MemoryKinds,
    ResidentMemory,
    SlabGrowth,
    UntracedGrowth,
)
from leaktrace.model import (
    TARGET_ENDED,
    Ending,
    Loss,
    Remark,
    RemarkKind,
    Report,
    Suppressed,
    SuppressedByPattern,
    TargetInfo,
)
from leaktrace.site import Allocation, Frame, Site, SourceLine, Stack, StackEnd, Total
from leaktrace.verdict import Lifetimes, Verdict, VerdictKind

MS = 1_000_000


S = 1_000 * MS


LIBPARSE = "/opt/app/lib/libparse.so.1"


HTTPD = "/usr/sbin/httpd"


def frame(
    address: int, function: str, offset: int, module: str, source: str = "", **others: Any
) -> Frame:
    file, _, line = source.partition(":")
    return Frame(
        address,
        function,
        offset,
        module,
        source=SourceLine(file, int(line)) if source else None,
        **others,
    )


PARSE = Stack(
    (
        frame(
            0x7F3A52C0A1B2,
            "copy_token",
            0,
            LIBPARSE,
            "http/token.h:12",
            inlined=True,
        ),
        frame(
            0x7F3A52C0A1B2,
            "parse_header",
            0x2F,
            LIBPARSE,
            "http/parser.c:118",
            module_offset=0xA1B2,
            build_id="9f3c0a",
        ),
        frame(0x55D0C0DE1A00, "read_request", 0x1A0, HTTPD, "http/server.c:77"),
        frame(0x55D0C0DE0A10, "main", 0x44, HTTPD, "main.c:31"),
    ),
    StackEnd.COMPLETE,
)


CPP_NAME = (
    "std::vector<std::map<std::string, std::shared_ptr<app::cache::Entry>, std::less<void>>>::"
    "_M_realloc_insert<std::map<std::string, std::shared_ptr<app::cache::Entry>>>(unsigned long)"
)


CACHE = Stack(
    (
        frame(
            0x55D0C0DE2222,
            CPP_NAME,
            0x31,
            HTTPD,
            "/home/build/agent/workspace/product-release/src/cache/storage/vector_of_entries.hpp:1203",
        ),
        Frame(
            0x7F3A52D00010,
            module="/usr/lib/x86_64-linux-gnu/libz.so.1.2.13",
            module_offset=0x10010,
            unknown="no symbols",
        ),
        Frame(0x7F3A40000010, unknown="in no mapping"),
    ),
    StackEnd.BROKEN,
)


PARSE_SITE = Site(
    "6f1d2a90c41b7e55",
    PARSE,
    12_582_912,
    12_288,
    oldest_ns=250 * S,
    newest_ns=700 * MS,
    growth_bytes=524_288,
    allocated_bytes=25_165_824,
    allocated_count=24_576,
    freed_bytes=12_582_912,
    freed_count=12_288,
    verdict=Verdict(
        VerdictKind.GROWING,
        "12,100 blocks came in 12.0s and stayed; none older than 17ms was freed",
        bytes_per_s=104_857.6,
        error_bytes_per_s=950.5,
        since_s=12.0,
    ),
    lifetimes=Lifetimes(tuple({20: 12_100, 24: 180, 32: 8}.get(power, 0) for power in range(33))),
)


CACHE_SITE = Site(
    "00000000000000ff",
    CACHE,
    2_097_152,
    1,
    oldest_ns=3 * S,
    newest_ns=3 * S,
    growth_bytes=0,
    allocated_bytes=2_097_152,
    allocated_count=1,
    verdict=Verdict(VerdictKind.STEADY, "what it holds does not keep growing"),
)


LOST_SITE = Site("0000000000000000", Stack((), StackEnd.LOST), 96, 3, 5 * S, 4 * S, -32)


NO_LOSSES = (
    Loss("allocations", 0, "allocations not recorded: the map is full", bytes=0),
    Loss("stacks", 0, "stacks not stored: the map is full"),
    Loss("missed_returns", 0, "allocation calls whose return was not seen"),
)


LOSSES = (
    Loss(
        "allocations",
        1_234,
        "allocations not recorded: the map is full",
        "raise --max-allocs (now 1,000,000)",
        bytes=3_145_728,
    ),
    Loss(
        "stacks",
        3,
        "stacks not stored: the map is full; the allocations are still counted",
        "raise --max-stacks (now 131,072)",
    ),
    Loss("missed_returns", 0, "allocation calls whose return was not seen"),
)


BUSY = Report(
    time=datetime(2026, 11, 24, 6, 0, 0, tzinfo=UTC),
    elapsed_s=15.0,
    number=3,
    final=False,
    reason="",
    target=TargetInfo(
        4242,
        "httpd",
        allocators=("libc.so.6: 12 functions",),
        notes=("libz.so.1.2.13 has no unwind tables: frames there are guessed",),
    ),
    outstanding=Total(16_777_216, 13_000),
    younger=Total(65_536, 64),
    older_ms=500,
    site_count=37,
    sites=(PARSE_SITE, CACHE_SITE, LOST_SITE),
    top=3,
    growth_bytes=1_258_291,
    resident=ResidentMemory(
        50_331_648,
        1_363_148,
        MemoryKinds(41_943_040, 8_388_608),
        MemoryKinds(5_242_880, 131_072),
    ),
    explained=Explained(
        resident_growth=5_373_952,
        outstanding=16_777_216,
        outstanding_held=16_777_216,
        other_memory=0,
        unexplained=-11_403_264,
        allocator_at_most=0,
        since_attach=MemoryKinds(5_242_880, 131_072),
        not_resident=0,
        new_threads=2,
    ),
    losses=LOSSES,
    stack_ends={StackEnd.COMPLETE: 35, StackEnd.BROKEN: 1, StackEnd.LOST: 1},
    allocations=(
        Allocation(0x7F3A40001000, 4096, 250 * S, PARSE_SITE.id),
        Allocation(0x7F3A40000F00, 128, 700 * MS, PARSE_SITE.id),
        Allocation(0x55D0C1000010, 2_097_152, 3 * S, CACHE_SITE.id),
        Allocation(0x55D0C1000500, 24, 2 * S, "1111111111111111"),
    ),
    verdict=Verdict(
        VerdictKind.GROWING,
        "one site grows",
        bytes_per_s=104_857.6,
        error_bytes_per_s=950.5,
        since_s=12.0,
    ),
)


QUIET = replace(
    BUSY,
    elapsed_s=61.2,
    number=1,
    final=True,
    reason=TARGET_ENDED,
    ending=Ending(status=3),
    outstanding=Total(),
    younger=Total(),
    site_count=0,
    sites=(),
    growth_bytes=None,
    resident=None,
    explained=None,
    losses=NO_LOSSES,
    stack_ends={},
    allocations=None,
    top=10,
    verdict=Verdict(VerdictKind.TOO_EARLY, "watched for 2.0s only", needs_s=4.0),
)


COMBINED = replace(
    BUSY,
    combined=True,
    number=1,
    sites=(
        replace(PARSE_SITE, oldest_ns=None, newest_ns=None, growth_bytes=None, lifetimes=None),
        replace(LOST_SITE, oldest_ns=None, newest_ns=None, growth_bytes=None),
    ),
    outstanding=Total(12_583_008, 12_291),
    younger=Total(),
    site_count=2,
    growth_bytes=None,
    losses=NO_LOSSES,
    stack_ends={StackEnd.COMPLETE: 1, StackEnd.LOST: 1},
    allocations=None,
)


SAMPLED = replace(
    BUSY,
    sample_rate=100,
    losses=NO_LOSSES,
    allocations=None,
    sites=(PARSE_SITE, CACHE_SITE),
    target=TargetInfo(0, "kernel", "kernel", ("kmem tracepoints: 4",)),
)


WEIGHTED = replace(
    BUSY,
    sample_bytes=524_288,
    error=Total(730_000, 600),
    losses=NO_LOSSES,
    allocations=None,
    younger=Total(),
    sites=(
        replace(PARSE_SITE, error=Total(524_288, 512)),
        replace(CACHE_SITE, error=Total(180_000, 1)),
    ),
    site_count=3,
    outstanding=Total(16_777_216, 1_234_567),
    stack_ends={StackEnd.UNKNOWN: 3},
)


PIPE_SITE = Site(
    "1d2f7a90c41b7e01",
    Stack(
        (
            Frame(
                0xFFFFFFFF81234567,
                "alloc_pipe_info",
                0xB3,
                "kernel",
                module_offset=0x234567,
                build_id="48dc54",
            ),
            Frame(0xFFFFFFFFC0405123, "ext4_alloc_inode", 0x1F, "ext4", module_offset=0x5123),
            Frame(0xFFFFFFFF81000076, "entry_SYSCALL_64_after_hwframe", 0x76, "kernel"),
        ),
        StackEnd.COMPLETE,
    ),
    192_000,
    1_000,
    oldest_ns=4 * S,
    newest_ns=1 * S,
    growth_bytes=192_000,
    allocated_bytes=192_000,
    allocated_count=1_000,
    requested_bytes=152_000,
    cache="kmalloc-192",
    context="process",
)


SOFTIRQ_SITE = replace(
    LOST_SITE,
    requested_bytes=96,
    cache="maple_node",
    context="softirq",
    unconfirmed="objects of maple_node are often freed in bulk, which can't be seen",
)


PAGES_SITE = replace(
    PIPE_SITE, bytes=8_192, count=2, requested_bytes=8_192, cache=None, growth_bytes=-4_096
)


KERNEL_TARGET = TargetInfo(
    0, "kernel 6.1.0", "kernel", ("slab: 4 tracepoints", "pages: 2 tracepoints")
)


PAGES = replace(
    BUSY,
    target=KERNEL_TARGET,
    section="pages",
    outstanding=Total(8_192, 2),
    younger=Total(),
    site_count=1,
    sites=(PAGES_SITE,),
    growth_bytes=-4_096,
    resident=None,
    explained=None,
    losses=(),
    stack_ends={StackEnd.COMPLETE: 1},
    allocations=None,
)


KERNEL = replace(
    PAGES,
    section="slab",
    outstanding=Total(192_096, 1_003),
    site_count=2,
    sites=(PIPE_SITE, SOFTIRQ_SITE),
    growth_bytes=191_000,
    losses=NO_LOSSES,
    stack_ends={StackEnd.COMPLETE: 1, StackEnd.LOST: 1},
    sections=(PAGES,),
    slab=SlabGrowth(grown_bytes=12_687_770, tracked_bytes=12_478_054, older_releases=12),
    untraced=(
        UntracedGrowth("vmalloc", "--vmalloc", 67_108_864),
        UntracedGrowth("percpu", "--percpu", 2_097_152),
    ),
)


INCOMPLETE = replace(
    COMBINED,
    resident=ResidentMemory(
        88_080_384, None, MemoryKinds(75_497_472, 10_485_760, 2_097_152), MemoryKinds(67_108_864)
    ),
    explained=Explained(
        resident_growth=67_108_864,
        outstanding=16_777_216,
        outstanding_held=16_777_216,
        other_memory=0,
        unexplained=50_331_648,
        allocator_at_most=50_331_648,
        since_attach=MemoryKinds(67_108_864),
        not_resident=0,
        new_threads=1,
        huge_pages=HugePages(8_388_608, 0),
    ),
    losses=(
        *NO_LOSSES,
        Loss(
            "guessed_stacks", 12, "allocations with a frame found by frame pointer", is_lost=False
        ),
    ),
    remarks=(
        Remark(
            RemarkKind.UNHOOKED_ALLOCATOR,
            "libarrow.so.2600 has its own allocator, not hooked (jemalloc, as "
            "je_arrow_malloc): what is allocated there is missing from these figures",
            "try --faults",
        ),
        Remark(
            RemarkKind.NOT_RESIDENT,
            "RSS grew by 328.0 KiB since leaktrace attached, but 64.0 MiB is outstanding: the rest "
            "was never touched",
        ),
    ),
)


SUPPRESSED = replace(
    BUSY,
    suppressed=Suppressed(
        (
            SuppressedByPattern("^cache_*", 3, Total(1_258_291, 300)),
            SuppressedByPattern("libnothing.so", 0, Total()),
            SuppressedByPattern("http/token.h", 1, Total(64, 1)),
        )
    ),
)
