"""The parts of a snapshot that are about shared memory and the program break. All of their figures
are in the accounts of the processes (region_account.py); the kernel side has only the stacks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi import process as abi
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.memory import OTHER_MEMORY, Backing
from leaktrace.process.regions import RegionTotals
from leaktrace.process.regions_in_memory import regions_in_memory
from leaktrace.process.traced import Traced


@dataclass
class _Site:
    """What was mapped from one stack, and what of it no longer is."""

    slot: int = 0
    mapped: RegionTotals = field(default_factory=RegionTotals)
    freed: RegionTotals = field(default_factory=RegionTotals)
    counted: RegionTotals = field(default_factory=RegionTotals)  # by the kernel side


def regions_of(
    traced: Traced, backing: Backing
) -> tuple[NDArray[np.uint64], NDArray[np.void], NDArray[np.uint16]]:
    """Addresses, records and slots of the regions of one process that have this backing, without
    those of its allocators."""
    addresses, values = traced.regions.ledger_of(backing).records(backing)
    # Some stacks can be judged only now, because their objects are new.
    of_stack = values["stack_id"]
    left_out = [one for one in np.unique(of_stack).tolist() if traced.own.is_own(one)]
    if left_out:
        counted = ~np.isin(of_stack, np.array(left_out, dtype=np.uint64))
        addresses, values = addresses[counted], values[counted]
    return addresses, values, np.full(len(values), traced.slot.number, dtype=np.uint16)


def with_other_memory(
    snapshot: Snapshot, traced: Sequence[Traced], *, combined_only: bool, count_unit: int
) -> Snapshot:
    """The snapshot, with those of OTHER_MEMORY beside it. What mmap returned is in the kernel
    side's counters until it is known what backs it."""
    parts = []
    for backing in OTHER_MEMORY:
        sites = _sites_of(traced, backing)
        parts.append(_part(snapshot, traced, backing, sites, combined_only=combined_only))
        _leave_out(snapshot, sites, count_unit)
    losses = snapshot.losses.copy()
    losses[abi.LossKind.SEGMENTS] += np.uint64(sum(one.regions.unsized for one in traced))
    own = snapshot.sites["allocated_count"] != 0
    return replace(
        snapshot.with_sites(own),
        losses=losses,
        other_memory=tuple(parts),
    )


def _sites_of(traced: Sequence[Traced], backing: Backing) -> dict[int, _Site]:
    """By stack id. (Lost stacks have the same one in all processes.)"""
    sites: defaultdict[int, _Site] = defaultdict(_Site)
    for one in traced:
        ledger = one.regions.ledger_of(backing)
        freed, counted = ledger.freed(backing), ledger.counted(backing)
        for stack_id, totals in ledger.mapped(backing).items():
            if one.own.is_own(stack_id):
                continue
            site = sites[stack_id]
            site.slot = one.slot.number
            in_kernel = counted.get(stack_id, RegionTotals())
            for mine, more in (
                (site.mapped, totals),
                (site.freed, freed[stack_id]),
                (site.counted, in_kernel),
            ):
                mine.bytes += more.bytes
                mine.count += more.count
    return sites


def _part(
    snapshot: Snapshot,
    traced: Sequence[Traced],
    backing: Backing,
    sites: dict[int, _Site],
    *,
    combined_only: bool,
) -> Snapshot:
    mapped = [regions_of(one, backing) for one in traced]
    found = [] if combined_only else mapped
    nothing = np.empty(0, dtype=np.uint64)
    rows = np.zeros(len(sites), dtype=abi.SITE)
    known = dict(zip(snapshot.site_ids.tolist(), snapshot.sites, strict=True))
    for row, (stack_id, site) in enumerate(sites.items()):
        of_kernel = known.get(stack_id)
        if of_kernel is not None:
            rows[row] = of_kernel
        rows["allocated_bytes"][row], rows["allocated_count"][row] = _unsigned(site.mapped)
        rows["freed_bytes"][row], rows["freed_count"][row] = _unsigned(site.freed)
    return replace(
        snapshot,
        addresses=np.concatenate([nothing, *(addresses for addresses, _, _ in found)]),
        records=np.concatenate(
            [np.empty(0, dtype=abi.ALLOCATION), *(values for _, values, _ in found)]
        ),
        record_slots=np.concatenate([nothing.astype(np.uint16), *(slots for _, _, slots in found)]),
        region_count=sum(len(values) for _, values, _ in found),
        site_ids=np.array(list(sites), dtype=np.uint64),
        sites=rows,
        site_slots=np.array([site.slot for site in sites.values()], dtype=np.uint16),
        freed_is_counted=True,
        lifetimes=None,
        unseen_releases=None,
        sections=(),
        regions=regions_in_memory(traced, mapped, backing, snapshot.time_ns),
    )


def _unsigned(totals: RegionTotals) -> tuple[np.uint64, np.uint64]:
    """Modulo 2**64: a hole can leave more regions than calls were made."""
    return np.uint64(totals.bytes % (1 << 64)), np.uint64(totals.count % (1 << 64))


def _leave_out(snapshot: Snapshot, sites: dict[int, _Site], count_unit: int) -> None:
    """Take what has a section of its own out of the kernel side's counters."""
    wanted = np.array(list(sites), dtype=np.uint64)
    for row in np.nonzero(np.isin(snapshot.site_ids, wanted))[0].tolist():
        counted = sites[int(snapshot.site_ids[row])].counted
        snapshot.sites["allocated_bytes"][row] -= np.uint64(counted.bytes)
        snapshot.sites["allocated_count"][row] -= np.uint64(counted.count * count_unit)
