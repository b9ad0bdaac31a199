"""What reports say about the Go code of a process, built by hand."""

from __future__ import annotations

from leaktrace.go_report import (
    Change,
    Collector,
    GoLine,
    GoSummary,
    GoVerdict,
    GrownPart,
    LeakingGoroutines,
)
from leaktrace.verdict import Verdict, VerdictKind

GO = GoSummary(
    pid=4242,
    version="go1.22.3",
    goroutine_count=5121,
    growth_per_s=90.2,
    verdict=GoVerdict.LEAKING,
    leaking_group_count=2,
    leaking=(
        LeakingGoroutines(
            count=5120,
            growth_per_s=90.2,
            wait_reason="chan receive",
            created_by=GoLine("shop/orders.Begin", "/src/shop/orders/orders.go", 118),
            started_as=GoLine("shop/orders.(*Watch).run", "/src/shop/orders/watch.go", 31),
        ),
        LeakingGoroutines(
            count=3, growth_per_s=0.0004, wait_reason="select", created_by=None, started_as=None
        ),
    ),
    collector=Collector(percent=-1, memory_limit_bytes=None, collections=0, live_bytes=0),
    heap_bytes=94_896_128,
    heap_change=Change(count=1200, size_bytes=12_582_912, bytes_per_s=1_258_291.2),
    heap_verdict=Verdict(
        VerdictKind.GROWING,
        "GOGC=off: nothing was collected, so all that was allocated stays",
        1_258_291.2,
        2048.0,
        10.0,
    ),
    heap_grown_most=GrownPart(Change(1100, 11_534_336, 1_153_433.6), type_name="[]main.Row"),
)
# Its heap can't be read, and it has ended.
GO_OF_OLD = GoSummary(
    pid=4243,
    version="go1.18",
    goroutine_count=1,
    growth_per_s=None,
    verdict=GoVerdict.TOO_EARLY,
    leaking_group_count=0,
    leaking=(),
    notes=("the heap of go1.18 is not known",),
    problem="process 4243 has ended",
)
