"""Reports of `leaktrace heap`, built by hand."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime

from leaktrace.heap_report import (
    Account,
    AccountPart,
    Amount,
    BlockGroup,
    FreeMemory,
    GroupKind,
    HeapReport,
    OlderBlocks,
)
from leaktrace.reach import Holder, HolderKind, HolderStep, LostShare
from leaktrace.report import create_heap_reporter

KIB, MIB = 1 << 10, 1 << 20

SESSIONS = BlockGroup(
    kind=GroupKind.CLASS,
    name="shop::Session",
    text="",
    least_bytes=1000,
    most_bytes=1000,
    amount=Amount(20_000, 20_000_000),
    lost=LostShare(
        definite_bytes=15_000_000,
        definite_count=15_000,
        indirect_bytes=2_000_000,
        indirect_count=10_000,
        reachable_bytes=5_000_000,
        reachable_count=5_000,
        scanned_count=20_000,
    ),
    sample_address=0x55D000001010,
)
REQUESTS = BlockGroup(
    kind=GroupKind.TEXT,
    name="GET /api/v1/\x1b[31m",
    text="",
    least_bytes=24,
    most_bytes=4104,
    amount=Amount(10_000, 2_000_000),
    lost=LostShare(indirect_count=0, reachable_bytes=2_000_000, scanned_count=10_000),
    sample_address=0x55D000401010,
)
NODES = BlockGroup(
    kind=GroupKind.BLOCK,
    name="",
    text="customer 4711",
    least_bytes=40,
    most_bytes=40,
    amount=Amount(300, 12_000),
    lost=LostShare(reachable_bytes=12_000, reachable_count=300, scanned_count=300),
    sample_address=0x55D000801010,
)
OLDER = (
    OlderBlocks(
        pid=4242,
        command="httpd",
        allocator="glibc malloc",
        in_use=Amount(30_300, 22_012_000),
        lost=LostShare(
            definite_bytes=15_000_000,
            definite_count=15_000,
            indirect_bytes=2_000_000,
            indirect_count=10_000,
            reachable_bytes=5_012_000,
            reachable_count=5_300,
            scanned_count=30_300,
        ),
        groups=(SESSIONS, REQUESTS, NODES),
        lost_groups=(SESSIONS,),
        group_count=7,
        lost_group_count=1,
        unjudged_count=2,
        age_s=0.1,
        pause_s=0.131,
        read_bytes=30 * MIB,
        took_s=0.2,
    ),
)
OLDER_OF_TWO = (
    OlderBlocks(
        pid=4242,
        command="httpd",
        allocator="musl mallocng",
        in_use=Amount(300, 12_000),
        lost=LostShare(reachable_bytes=12_000, reachable_count=300, scanned_count=300),
        groups=(NODES,),
        group_count=1,
        age_s=12.5,
        pause_s=0.0021,
        read_bytes=3 * MIB,
        unread_bytes=4096,
        took_s=0.02,
        may_be_newer=("12 allocations not recorded: the map is full",),
    ),
    OlderBlocks(pid=4243, command="worker", problem="it has no heap that leaktrace can walk"),
)
TABLE = replace(NODES, kind=GroupKind.FILE, name="libshop.so.1+0x3d68", text="")
MAIN = FreeMemory(
    number=0,
    is_main=True,
    system_bytes=30 * MIB,
    in_use=Amount(30_300, 22_012_000),
    free_bytes=8 * MIB,
    top_bytes=MIB,
    cached_bytes=64 * KIB,
    trimmable_bytes=6 * MIB,
    between_bytes=7 * MIB - 64 * KIB,
    largest_bytes=5 * MIB,
    last_block=(0x55D001801010, 512),
)
OTHER = replace(MAIN, number=3, is_main=False, free_bytes=0, top_bytes=0, cached_bytes=0)
LOST = HeapReport(
    time=datetime(2026, 11, 24, 6, tzinfo=UTC),
    elapsed_s=0.0,
    number=1,
    final=False,
    reason="",
    pid=4242,
    command="server",
    core="",
    allocator="glibc malloc",
    thread_count=9,
    in_use=Amount(30_300, 22_012_000),
    own_bytes=5_800,
    free_bytes=8 * MIB,
    overhead_bytes=242_400,
    lost=LostShare(
        definite_bytes=15_000_000,
        definite_count=15_000,
        indirect_bytes=2_000_000,
        indirect_count=10_000,
        reachable_bytes=5_012_000,
        reachable_count=5_300,
        scanned_count=30_300,
    ),
    groups=(SESSIONS, REQUESTS, NODES, TABLE),
    lost_groups=(SESSIONS,),
    group_count=17,
    lost_group_count=2,
    arenas=(MAIN, replace(OTHER, between_bytes=0, trimmable_bytes=0)),
    arena_count=4,
    account=Account(
        resident_bytes=48 * MIB,
        parts=(
            (AccountPart.BLOCKS, 21 * MIB),
            (AccountPart.FREE, 8 * MIB),
            (AccountPart.ALLOCATOR, 300 * KIB),
            (AccountPart.CODE, 19 * MIB - 300 * KIB),
        ),
        swapped_bytes=3 * MIB,
    ),
    pause_s=0.1314,
    read_bytes=44 * MIB,
    unread_bytes=4096,
    took_s=1.25,
)
GROWN = replace(
    LOST,
    elapsed_s=300.0,
    number=2,
    final=True,
    lost=LostShare(reachable_bytes=22_012_000, reachable_count=30_300, scanned_count=30_300),
    groups=(
        replace(
            SESSIONS, since_first=Amount(2000, 2_000_000), since_previous=Amount(1000, 1_000_000)
        ),
        replace(REQUESTS, since_first=Amount(-5, -500), since_previous=Amount(0, 0)),
    ),
    lost_groups=(),
    group_count=2,
    lost_group_count=0,
    arenas=(MAIN,),
    arena_count=1,
    unread_bytes=0,
    lost_since_first=Amount(-25_000, -17_000_000),
    since_first=Amount(1995, 1_999_500),
    since_previous=Amount(1000, 1_000_000),
)
CORE = replace(
    LOST,
    core="/var/tmp/core.4242",
    arenas=(replace(MAIN, trimmable_bytes=None),),
    arena_count=1,
    account=None,
    pause_s=None,
    notes=("the core file has no registers: what only they point to counts as lost",),
)
BROKEN = replace(LOST, problems=("arena 2: 132 KiB of its memory were not found",))
HTTPD = "/usr/sbin/httpd"
SESSION_STEP = HolderStep(
    HolderKind.GROUP,
    name="shop::Session",
    group=GroupKind.CLASS.value,
    least_bytes=1000,
    most_bytes=1000,
    offset=8,
    last_offset=8,
    repeats=True,
)
VARIABLE = HolderStep(
    HolderKind.VARIABLE,
    name="g_sessions",
    module=HTTPD,
    module_offset=0x4F20,
    offset=0,
    last_offset=0,
)
REQUEST_STEP = replace(
    SESSION_STEP,
    name="GET /api/v1/\x1b[31m",
    group=GroupKind.TEXT.value,
    least_bytes=24,
    most_bytes=4104,
    offset=None,
    last_offset=None,
    repeats=False,
)
NODE_STEP = replace(
    REQUEST_STEP, name=None, group=GroupKind.BLOCK.value, least_bytes=40, most_bytes=40
)
TABLE_STEP = replace(NODE_STEP, name="libshop.so.1+0x3d68", group=GroupKind.FILE.value)
HELD = replace(
    LOST,
    notes=("variables and functions of 1 file have no names (libshop.so.1): it is gone",),
    groups=(
        replace(SESSIONS, holders=(Holder((VARIABLE, SESSION_STEP), 5_000, 5_000_000, 5_000),)),
        replace(
            REQUESTS,
            holders=(
                Holder(
                    (VARIABLE, replace(SESSION_STEP, offset=16, last_offset=24), REQUEST_STEP),
                    9_000,
                    1_800_000,
                    10_000,
                ),
                Holder(
                    (
                        HolderStep(
                            HolderKind.STACK, name="serve", thread=4711, thread_name="worker"
                        ),
                        replace(NODE_STEP, offset=0, last_offset=32, repeats=True),
                        replace(TABLE_STEP, offset=8, last_offset=8),
                        REQUEST_STEP,
                    ),
                    700,
                    140_000,
                    10_000,
                ),
                Holder(
                    (
                        HolderStep(
                            HolderKind.DATA,
                            name=".bss",
                            module="/opt/libshop.so.1",
                            offset=8,
                            last_offset=8,
                        ),
                        replace(REQUEST_STEP, offset=0, last_offset=4096, repeats=True),
                    ),
                    200,
                    40_000,
                    10_000,
                ),
                Holder((), 90, 18_000, 10_000),
            ),
        ),
        NODES,
    ),
)
HEAPS = {"lost": LOST, "grown": GROWN, "core": CORE, "broken": BROKEN, "held": HELD}


def rendered_heaps(format_name: str, *reports: HeapReport) -> str:
    """What a format makes of these reports."""
    output = io.StringIO()
    reporter = create_heap_reporter(format_name, output, io.StringIO())
    for report in reports:
        reporter.heap(report)
    return output.getvalue()
