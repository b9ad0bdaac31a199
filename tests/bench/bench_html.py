"""The HTML page of a recording with 10,000 sites: how long it takes to make, its size, how long
Chromium needs to show it.

    python tests/bench/bench_html.py
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarking.results import Results
from browser import chromium
from sample_pages import course, many_sites

from leaktrace.model import Report
from leaktrace.report.export import EXPORTS, ExportOptions

SITES, FRAMES, REPORTS = 10_000, 30, 300


def timed(work: Callable[[], object]) -> float:
    """How long it takes, in seconds."""
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


def measure(format_name: str, reports: list[Report], folder: Path, results: Results) -> None:
    """Make a page, and open it."""
    results.title(f"--format {format_name}: {SITES:,} sites of {FRAMES} frames, {REPORTS} reports")
    page = EXPORTS[format_name].create(ExportOptions())

    def take_in() -> None:
        for report in reports:
            page.add(report)

    took_s = timed(take_in)
    results.add("to take in a report", took_s / len(reports) * 1e3, "ms")
    path = folder / f"{format_name}.html"
    with path.open("wb") as output:
        results.add("to write the page", timed(lambda: page.write(output)), "s", 2.0)
    results.add("size of the page", path.stat().st_size / 1e6, "MB", 8.0)
    with chromium() as browser:
        tab = browser.new_page()
        took_s = timed(lambda: tab.goto(path.as_uri()))
        results.add("Chromium opens it in", took_s, "s", 2.0)


def main() -> None:
    results = Results("html")
    reports = list(course(REPORTS, many_sites(SITES, FRAMES)))
    with tempfile.TemporaryDirectory() as folder:
        for format_name in ("flamegraph", "html"):
            measure(format_name, reports, Path(folder), results)
    results.save()


if __name__ == "__main__":
    main()
