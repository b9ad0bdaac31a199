"""Reports of `leaktrace go`, built by hand."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime

from leaktrace.go_report import (
    GoLine,
    GoReport,
    GoroutineGroup,
    GoroutineSection,
    GoVerdict,
    GroupGrowth,
    GroupKey,
    Skip,
)
from leaktrace.report import create_go_reporter

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
        GoLine("shop/orders.(*Watch).next", "/src/shop/orders/watch.go", 77, is_inlined=True),
        GoLine("shop/orders.(*Watch).run", "/src/shop/orders/watch.go", 31),
        GoLine("shop/orders.Begin.gowrap1", "/src/shop/orders/orders.go", 118),
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
)
GO_REPORTS = {"growing": GROWING, "single": SINGLE, "ended": ENDED}


def rendered_go(format_name: str, report: GoReport) -> str:
    output = io.StringIO()
    create_go_reporter(format_name, output, io.StringIO()).go(report)
    return output.getvalue()
