"""Reports of `leaktrace go`, built by hand."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime

from leaktrace.go_report import (
    Change,
    Collector,
    GoHeap,
    GoLine,
    GoReport,
    GoroutineGroup,
    GoroutineSection,
    GoVerdict,
    GroupGrowth,
    GroupKey,
    GrownPart,
    HeapLook,
    ProfileKey,
    ProfileLook,
    RefillKey,
    RefillLook,
    RefillSection,
    RefillSite,
    SeenObjects,
    SeenRefills,
    SeenSite,
    SiteFigures,
    SizedObjects,
    SizeFigures,
    SizeKey,
    Skip,
    TypeFigures,
    TypeKey,
    TypesLook,
)
from leaktrace.report import create_go_reporter
from leaktrace.verdict import Verdict, VerdictKind

_BIAS = 0x55D0_C0C0_0000
PARK = GoLine("runtime.gopark", "/usr/lib/go/src/runtime/proc.go", 398)
EXIT = GoLine("runtime.goexit", "/usr/lib/go/src/runtime/asm_amd64.s", 1650)
STUCK = GoroutineGroup(
    GroupGrowth(
        key=GroupKey("chan receive", (1, 2, 3, 4), 5, 6),
        count=5120,
        growth=1353,
        growth_per_s=90.2,
        verdict=GoVerdict.LEAKING,
        stack_bytes=10_485_760,
        longest_wait_ns=250_000_000_000,
        since_s=15.0,
        look_count=4,
    ),
    (
        PARK,
        GoLine("runtime.chanrecv1", "/usr/lib/go/src/runtime/chan.go", 442),
        GoLine(
            "shop/orders.(*Watch).next",
            "/src/shop/orders/watch.go",
            77,
            is_inlined=True,
            address=_BIAS + 0x8A3C5,
        ),
        GoLine(
            "shop/orders.(*Watch).run",
            "/src/shop/orders/watch.go",
            31,
            address=_BIAS + 0x8A3C5,
            start=0x8A380,
        ),
        GoLine(
            "shop/orders.Begin.gowrap1",
            "/src/shop/orders/orders.go",
            118,
            address=_BIAS + 0x8B020,
            start=0x8B000,
            is_wrapper=True,
        ),
        EXIT,
    ),
    GoLine("shop/orders.Begin", "/src/shop/orders/orders.go", 118),
    GoLine("shop/orders.Begin.gowrap1", "/src/shop/orders/orders.go", 118),
)
FIRST = GoroutineGroup(
    GroupGrowth(
        key=GroupKey("IO wait", (7, 8), 0, 9),
        count=1,
        growth=0,
        growth_per_s=0.0,
        verdict=GoVerdict.STEADY,
        stack_bytes=8192,
        longest_wait_ns=None,
        since_s=15.0,
        look_count=4,
    ),
    (PARK, GoLine("main.main", "/src/shop/main.go", 40), EXIT),
    None,
    GoLine("runtime.main", "/usr/lib/go/src/runtime/proc.go", 145),
)
_NODE = SeenObjects(20_000, 81_920_000)
_TYPES = TypesLook(
    {TypeKey("main.Session", 4008): _NODE, TypeKey("*main.Session", 8): SeenObjects(1, 163_840)},
    unknown=SeenObjects(2, 8192),
    not_read_count=0,
)
_SEEN = SeenSite(
    19_018,
    77_897_728,
    19_500,
    79_872_000,
    (SizedObjects(4096, 19_018, 77_897_728, 19_500, 79_872_000),),
)
_HEAP_LOOK = HeapLook(
    time_s=115.0,
    took_s=0.012,
    collector=Collector(100, 1 << 30, 12, 94_866_560),
    in_use_bytes=94_898_296,
    object_count=46_125,
    spans_bytes=95_158_272,
    idle_bytes=9_428_992,
    released_bytes=4_038_656,
    stacks_bytes=10_747_904,
    allocated_bytes=122_464_560,
    resident_bytes=112_368_896,
    sizes={},
    types=_TYPES,
    skipped_span_count=0,
    moved_bytes=8192,
    profile=ProfileLook(524_288, {ProfileKey((1, 2)): _SEEN}, 9, 0),
)
_GROWN = Change(5000, 20_480_000, 1_365_333.3)
HEAP = GoHeap(
    look=_HEAP_LOOK,
    change=Change(5200, 20_600_000, 1_373_333.3),
    collections_since=3,
    live_change_bytes=20_400_000,
    sizes=(
        SizeFigures(SizeKey(4096, has_pointers=True, is_large=False), _NODE, _GROWN),
        SizeFigures(
            SizeKey(131_072, has_pointers=False, is_large=True),
            SeenObjects(80, 10_485_760),
            Change(0, 0, 0.0),
        ),
    ),
    size_count=31,
    types=(
        TypeFigures(TypeKey("main.Session", 4008), _NODE, _GROWN),
        TypeFigures(TypeKey("*main.Session", 8), SeenObjects(1, 163_840), Change(0, 0, 0.0)),
    ),
    type_count=7,
    sites=(
        SiteFigures(
            _SEEN,
            Change(4800, 19_660_800, 1_310_720.0),
            (
                GoLine(
                    "shop/orders.newSession",
                    "/src/shop/orders/orders.go",
                    53,
                    address=_BIAS + 0x8B10F,
                    start=0x8B0E0,
                ),
                GoLine(
                    "main.main",
                    "/src/shop/main.go",
                    40,
                    address=_BIAS + 0x8B6D1,
                    start=0x8B5A0,
                ),
            ),
        ),
    ),
    site_count=4,
    verdict=Verdict(
        VerdictKind.GROWING, "collections left ever more, at 6 looks", 1_365_000.0, 41_000.0, 12.5
    ),
    grown_most=GrownPart(
        Change(4800, 19_660_800, 1_310_720.0),
        GoLine("shop/orders.newSession", "/src/shop/orders/orders.go", 53),
    ),
)
_SECTION = GoroutineSection(
    alive_count=5180,
    growth_per_s=90.2,
    system_count=5,
    moving_count=3,
    stack_bytes=10_600_448,
    groups=(STUCK, FIRST),
    group_count=14,
    leaking_count=1,
    verdict=GoVerdict.LEAKING,
    skipped={Skip.RUNNING: 2, Skip.CHANGED: 1},
    took_s=0.081,
)
GROWING = GoReport(
    time=datetime(2026, 11, 24, 6, 0, 0, tzinfo=UTC),
    elapsed_s=15.0,
    number=3,
    final=False,
    reason="",
    pid=4242,
    command="shop",
    path="/usr/bin/shop",
    version="go1.22.3",
    top=10,
    goroutines=_SECTION,
    heap=HEAP,
    bias=_BIAS,
    build_id="0f3c5ea3a1c76c1d3c2b7d1d1f4a6e0b9d5a7c21",
)
_SINGLE_GROUP = replace(
    STUCK,
    growth=replace(
        STUCK.growth, growth=0, growth_per_s=None, verdict=GoVerdict.TOO_EARLY, look_count=1
    ),
)
SINGLE = replace(
    GROWING,
    elapsed_s=0.0,
    number=1,
    final=True,
    goroutines=replace(
        _SECTION,
        growth_per_s=None,
        groups=(_SINGLE_GROUP,),
        group_count=1,
        leaking_count=0,
        verdict=GoVerdict.TOO_EARLY,
        skipped={},
    ),
    heap=None,
    notes=("go1.99 is not known here: the layout of the newest known version is used",),
)
ENDED = replace(
    GROWING,
    final=True,
    reason="the target has ended",
    look_age_s=2.5,
    goroutines=replace(
        _SECTION, groups=(FIRST,), leaking_count=0, verdict=GoVerdict.STEADY, skipped={}
    ),
    heap=GoHeap(
        look=replace(
            _HEAP_LOOK,
            collector=Collector(-1, None, 0, 0),
            resident_bytes=2_000_000,
            types=None,
            skipped_span_count=2,
            moved_bytes=4_000_000,
            profile=None,
            profile_problem="not known: the program has switched its profile off",
        ),
        change=None,
        collections_since=0,
        live_change_bytes=None,
        sizes=HEAP.sizes[1:],
        size_count=1,
        verdict=Verdict(
            VerdictKind.TOO_EARLY,
            "collections were seen at no look yet, and it takes 4",
            needs_s=480.0,
        ),
    ),
)
_TASK = SeenRefills(12_345, 98_760, 101_130_240)
_CONF = SeenRefills(70, 70, 9_175_040)
_UNREAD = SeenRefills(1, 85, 8160)
REFILLS = RefillSection(
    look=RefillLook(
        elapsed_s=15.0,
        sites={
            RefillKey((1, 2), 1024, is_complete=True): _TASK,
            RefillKey((3,), 0, is_complete=False): _CONF,
            RefillKey((), 96, is_complete=False): _UNREAD,
        },
        runtime_bytes=118_000_000,
        thinned_count=2500,
        unknown_count=1,
        lost_count=3,
        lost_bytes=24_576,
    ),
    allocated_bytes=110_313_440,
    bytes_per_s=7_354_229.3,
    sites=(
        RefillSite(
            now=_TASK,
            bytes_per_s=6_742_016.0,
            recent_bytes_per_s=7_000_000.0,
            object_bytes=1024,
            is_complete=True,
            frames=HEAP.sites[0].frames,
        ),
        RefillSite(
            now=_CONF,
            bytes_per_s=611_669.3,
            recent_bytes_per_s=None,
            object_bytes=0,
            is_complete=False,
            frames=HEAP.sites[0].frames[1:],
        ),
        RefillSite(
            now=_UNREAD,
            bytes_per_s=544.0,
            recent_bytes_per_s=0.0,
            object_bytes=None,
            is_complete=False,
            frames=(),
        ),
    ),
    site_count=5,
)
SAMPLED = replace(
    GROWING,
    heap=replace(
        HEAP,
        look=replace(_HEAP_LOOK, profile=None, profile_problem="not known"),
        sites=(),
        site_count=0,
        refills=REFILLS,
        verdict=Verdict(
            VerdictKind.TOO_EARLY,
            "collections left ever more, at 4 looks, and it takes 6",
            1_365_000.0,
            120_000.0,
            8.0,
            needs_s=10.0,
        ),
        grown_most=GrownPart(_GROWN, object_bytes=4096),
    ),
)
GO_REPORTS = {"growing": GROWING, "single": SINGLE, "ended": ENDED, "sampled": SAMPLED}


def rendered_go(format_name: str, report: GoReport) -> str:
    output = io.StringIO()
    create_go_reporter(format_name, output, io.StringIO()).go(report)
    return output.getvalue()
