"""Reads the maps of process mode into a `Snapshot`."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi import process as abi
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.process.program import Program
from leaktrace.process.regions import RegionLedger


def take_snapshot(
    program: Program,
    regions: RegionLedger,
    *,
    combined_only: bool,
    count_unit: int = 1,
    is_left_out: Callable[[int], bool] = lambda stack_id: False,
) -> Snapshot:
    """Read the maps. Site counters count in units of 1 / `count_unit` (analysis/sampling.py);
    `is_left_out`: whether what was mapped from a stack is not to be counted.

    The maps change while they are read. A record that is there all the while is read exactly
    once; one that comes or goes meanwhile may be missed, and the counters of a site may be a few
    events ahead of or behind its records.
    """
    time_ns = time.monotonic_ns()
    session = program.session_now()
    _, losses = program.losses.read_all()

    addresses, records = np.empty(0, dtype=np.uint64), np.empty(0, dtype=abi.ALLOCATION)
    region_count = 0
    if not combined_only:
        keys, values = program.allocations.read_all()
        # An exec leaves the records of the image before it behind.
        current = values["time_ns"] >= session["exec_time_ns"]
        if not current.all():
            keys, values = keys[current], values[current]
        addresses, records = keys.astype(np.uint64, copy=False), values
        region_addresses, region_records = regions.records()
        # Some stacks can be judged only now, because their objects are new.
        of_stack = region_records["stack_id"]
        left_out = [one for one in np.unique(of_stack).tolist() if is_left_out(one)]
        if left_out:
            counted = ~np.isin(of_stack, np.array(left_out, dtype=np.uint64))
            region_addresses, region_records = region_addresses[counted], region_records[counted]
        if len(region_records):  # else spare a copy of what may be millions
            addresses = np.concatenate([addresses, region_addresses])
            records = np.concatenate([records, region_records])
        region_count = len(region_records)

    keys, sites = program.sites.read_all()
    current = sites["generation"] == session["generation"]
    for index in np.nonzero(current & (sites["is_region"] != 0))[0].tolist():
        current[index] = not is_left_out(int(keys[index]))
    site_ids, sites = keys[current].astype(np.uint64), sites[current]
    _count_freed_regions(site_ids, sites, regions, count_unit)
    return Snapshot(
        time_ns=time_ns,
        generation=int(session["generation"]),
        addresses=addresses,
        records=records,
        site_ids=site_ids,
        sites=sites,
        losses=losses.view(np.uint64),
        region_count=region_count,
        freed_is_counted=program.freed_is_counted,
    )


def _count_freed_regions(
    site_ids: NDArray[np.uint64],
    sites: NDArray[np.void],
    regions: RegionLedger,
    count_unit: int,
) -> None:
    """The kernel side counts what was mapped. What was unmapped since is only in the ledger."""
    freed = regions.freed()
    if not freed:
        return
    for index, stack_id in enumerate(site_ids.tolist()):
        totals = freed.get(stack_id)
        if totals is not None:
            # Arithmetic modulo 2**64: a hole can leave more regions than calls were made.
            sites["freed_bytes"][index] += np.uint64(totals.bytes % (1 << 64))
            sites["freed_count"][index] += np.uint64(totals.count * count_unit % (1 << 64))
