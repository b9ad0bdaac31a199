"""The stacks of threads: one group in a report, because the program has asked for threads, and not
for this memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.regions import Regions
from leaktrace.analysis.sites import SiteTable
from leaktrace.model import ThreadStacks
from leaktrace.options import ReportOptions
from leaktrace.site import Site


def thread_stacks(
    regions: Regions,
    table: SiteTable,
    rows: NDArray[np.intp],
    site_of: Callable[[int], Site],
    asked: ReportOptions,
) -> ThreadStacks | None:
    """The group of these rows of the table, which create threads; None if there are none."""
    found = None if table.regions is None else table.regions.of(rows)
    if found is None:
        return None
    of_stacks = regions.rows["is_thread_stack"].copy()
    of_stacks &= np.isin(regions.rows["stack_id"], table.stack_ids[rows])
    sizes = regions.rows["size"][of_stacks]
    is_same = len(sizes) > 0 and sizes.min() == sizes.max()
    by_count = rows[np.argsort(-table.counts[rows], kind="stable")]
    return ThreadStacks(
        found,
        tuple(site_of(int(row)) for row in by_count[: asked.most_sites]),
        len(rows),
        int(sizes[0]) if is_same else None,
        regions.idle_stacks,
        regions.idle_bytes,
        asked.verbose,
    )
