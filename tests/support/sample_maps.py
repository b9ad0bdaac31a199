"""Reports of `leaktrace maps`, built by hand."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime

from leaktrace.memory_map import (
    Figures,
    KindLine,
    MapKind,
    MapsReport,
    MemoryRange,
    RangeGrowth,
)
from leaktrace.report import create_maps_reporter

KIB, MIB = 1 << 10, 1 << 20

ARENA = MemoryRange(
    0x7F3A40000000,
    0x7F3A42000000,
    "rw-p",
    "",
    MapKind.ARENA,
    Figures(32 * MIB, 24 * MIB, 24 * MIB, 2 * MIB, 4 * MIB, 0, MIB),
)
DATA = MemoryRange(
    0x7F3A52C00000,
    0x7F3A52C40000,
    "r--s",
    "/var/lib/shop/prices\nof today.db",
    MapKind.SHARED_FILE,
    Figures(256 * KIB, 200 * KIB, 100 * KIB),
    ("fe:00", 77),
    deleted=True,
)
_KINDS = (
    KindLine(
        MapKind.ARENA,
        1,
        ARENA.figures,
        Figures(12 * MIB, 10 * MIB, 10 * MIB, MIB, 2 * MIB, 0, MIB),
        Figures(MIB, MIB, MIB),
    ),
    KindLine(
        MapKind.SHARED_FILE,
        1,
        DATA.figures,
        Figures(256 * KIB, 200 * KIB, 100 * KIB),
        Figures(0, 8 * KIB, 4 * KIB),
    ),
    KindLine(MapKind.INACCESSIBLE, 1, Figures(32 * MIB), Figures(-12 * MIB), Figures(-MIB)),
)
GROWING = MapsReport(
    time=datetime(2026, 11, 24, 6, tzinfo=UTC),
    elapsed_s=15.0,
    number=3,
    final=False,
    reason="",
    pid=4242,
    command="worker",
    mapping_count=3,
    thread_count=5,
    total=Figures(
        64 * MIB + 256 * KIB, 24 * MIB + 200 * KIB, 24 * MIB + 100 * KIB, 2 * MIB, 4 * MIB, 0, MIB
    ),
    kinds=_KINDS,
    largest=(ARENA, DATA),
    top=2,
    since_first=Figures(
        256 * KIB, 10 * MIB + 200 * KIB, 10 * MIB + 100 * KIB, MIB, 2 * MIB, 0, MIB
    ),
    since_previous=Figures(0, MIB + 8 * KIB, MIB + 4 * KIB),
    grown=(
        RangeGrowth(ARENA, 11 * MIB, MIB, is_new=False),
        RangeGrowth(DATA, 200 * KIB, 8 * KIB, is_new=True),
    ),
    notes=("the stacks of 4 of 5 threads are not told apart",),
)
SINGLE = replace(
    GROWING,
    elapsed_s=0.0,
    number=1,
    kinds=tuple(replace(one, since_first=None, since_previous=None) for one in _KINDS),
    since_first=None,
    since_previous=None,
    grown=(),
    notes=(),
)
ENDED = replace(
    GROWING, final=True, reason="the target has ended", grown=(), look_age_s=3.25, notes=()
)
MAPS = {"growing": GROWING, "single": SINGLE, "ended": ENDED}


def rendered_maps(format_name: str, *reports: MapsReport) -> str:
    """What a format makes of these reports."""
    output = io.StringIO()
    reporter = create_maps_reporter(format_name, output, io.StringIO())
    for report in reports:
        reporter.maps(report)
    return output.getvalue()
