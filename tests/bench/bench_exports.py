"""How long it takes to make the file of each export from a large report, and how large it is.

    python tests/bench/bench_exports.py

10,000 sites of 30 frames each: once with frames that stacks share, as in a running trace, and once
with each frame an object of its own, as a file of reports may be read.
"""

from __future__ import annotations

import gc
import io
import random
import time
from datetime import UTC, datetime

from benchmarking.results import Results

from leaktrace.model import Report, TargetInfo
from leaktrace.report.export import EXPORTS, ExportOptions
from leaktrace.site import Frame, Site, SourceLine, Stack, StackEnd, Total

SITES = 10_000
FRAMES = 30
FUNCTIONS = 3_000
MOST_S = 2.0


def main() -> None:
    results = Results("exports")
    for name, is_shared in (("shared frames", True), ("frames of their own", False)):
        results.title(f"{SITES:,} sites of {FRAMES} {name}")
        report = large_report(is_shared)
        for format_name, chosen in EXPORTS.items():
            chosen.create(ExportOptions())  # its modules are imported
            gc.collect()
            started = time.process_time()
            export, output = chosen.create(ExportOptions()), io.BytesIO()
            export.add(report)
            export.write(output)
            took_s = time.process_time() - started
            size_mb = len(output.getvalue()) / 1e6
            results.add(f"{format_name} ({size_mb:.1f} MB)", took_s, "s", MOST_S)
    results.save()


def large_report(is_shared: bool) -> Report:
    """Stacks of random functions, whose first frames are alike, as those of real programs are."""
    chance = random.Random(1)
    sites = tuple(
        Site(
            f"{number:016x}",
            Stack(
                tuple(
                    frame(chance.randrange(min(FUNCTIONS, 4 << (FRAMES - depth) // 2)), depth)
                    for depth in range(FRAMES)
                ),
                StackEnd.COMPLETE,
            ),
            bytes=chance.randrange(1, 1 << 20),
            count=chance.randrange(1, 1000),
            allocated_bytes=1 << 21,
            allocated_count=2000,
            freed_bytes=chance.randrange(1, 1 << 20),
            freed_count=1000,
        )
        for number in range(SITES)
    )
    if is_shared:
        known: dict[Frame, Frame] = {}
        sites = tuple(
            Site(
                site.id,
                Stack(tuple(known.setdefault(one, one) for one in site.stack.frames)),
                site.bytes,
                site.count,
            )
            for site in sites
        )
    held = Total(sum(site.bytes for site in sites), sum(site.count for site in sites))
    return Report(
        time=datetime(2026, 11, 24, tzinfo=UTC),
        elapsed_s=60.0,
        number=1,
        final=True,
        reason="",
        target=TargetInfo(4242, "server"),
        outstanding=held,
        younger=Total(),
        older_ms=0,
        site_count=SITES,
        sites=sites,
        top=SITES,
    )


def frame(number: int, depth: int) -> Frame:
    """A frame of one of the functions that are called at a depth."""
    place = number * 64 + depth * FUNCTIONS * 64
    return Frame(
        0x5555_0000_0000 + place,
        f"app::module{depth}::Class{number}::method(std::string const&, unsigned long)",
        0x20,
        "/usr/bin/server",
        module_offset=place,
        build_id="0123456789abcdef",
        source=SourceLine(f"/src/app/module{depth}.cpp", number),
    )


if __name__ == "__main__":
    main()
