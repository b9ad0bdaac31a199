"""Reads the maps of process mode into a `Snapshot`."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi import process as abi
from leaktrace.abi.process import MAX_SLOTS
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.analysis.spaces import divide
from leaktrace.memory import Backing
from leaktrace.process.keys import (
    addresses_of,
    slots_of,
    slots_of_sites,
    spaces_of,
    spaces_of_sites,
)
from leaktrace.process.other_memory import regions_of, with_other_memory
from leaktrace.process.program import Program
from leaktrace.process.regions import RegionTotals
from leaktrace.process.regions_in_memory import Records, regions_in_memory
from leaktrace.process.traced import Traced


def take_snapshot(
    program: Program,
    traced: Sequence[Traced],
    *,
    combined_only: bool,
    count_unit: int = 1,
    space_count: int = 0,
) -> Snapshot:
    """Read the maps. Site counters count in units of 1 / `count_unit` (analysis/sampling.py). What
    pairs of functions allocated, and file descriptors, 1 to `space_count`, are in sections of their
    own.

    The maps change while they are read. A record that is there all the while is read exactly
    once; one that comes or goes meanwhile may be missed, and the counters of a site may be a few
    events ahead of or behind its records.
    """
    time_ns = time.monotonic_ns()
    images = _Images.of(traced)
    _, losses = program.losses.read_all()
    records = _Records.empty()
    mapped = [regions_of(one, Backing.MAPPED) for one in traced]
    if not combined_only:
        records = _records_of(program, mapped, images)
    keys, sites = program.sites.read_all()
    slots, spaces = slots_of_sites(sites), spaces_of_sites(sites)
    current = images.generations[slots] == sites["generation"]
    by_slot = {one.slot.number: one for one in traced}
    for index in np.nonzero(current & (sites["is_region"] != 0))[0].tolist():
        current[index] = not by_slot[int(slots[index])].own.is_own(int(keys[index]))
    site_ids, sites = keys[current].astype(np.uint64), sites[current]
    lifetimes = None if program.lifetimes is None else program.lifetimes.read(site_ids)
    _count_freed_regions(site_ids, sites, traced, count_unit)
    snapshot = Snapshot(
        time_ns=time_ns,
        generation=traced[0].generation,
        addresses=records.addresses,
        records=records.values,
        site_ids=site_ids,
        sites=sites,
        losses=losses.view(np.uint64),
        region_count=records.region_count,
        freed_is_counted=program.freed_is_counted,
        record_slots=records.slots,
        site_slots=slots[current],
        regions=regions_in_memory(traced, mapped, Backing.MAPPED, time_ns),
        lifetimes=lifetimes,
        unseen_releases=images.unseen_releases if program.sees_all_releases else None,
    )
    snapshot = divide(snapshot, records.spaces, spaces[current], space_count)
    snapshot = _with_releases_of_pairs(snapshot, program)
    return with_other_memory(snapshot, traced, combined_only=combined_only, count_unit=count_unit)


def _with_releases_of_pairs(snapshot: Snapshot, program: Program) -> Snapshot:
    """The snapshot, with how many objects of each pair were released that have no record. (Closed
    file descriptors are not counted that way.)"""
    pair_count = len(snapshot.sections) - (program.descriptor_calls is not None)
    if pair_count <= 0 or program.pair_calls is None:
        return snapshot
    sections = list(snapshot.sections)
    for space in range(1, pair_count + 1):
        calls = program.pair_calls.lookup(space)
        assert calls is not None  # an array has all its entries
        sections[space - 1] = replace(
            sections[space - 1], unseen_releases=int(calls["other_releases"])
        )
    return replace(snapshot, sections=tuple(sections))


@dataclass(frozen=True)
class _Images:
    """Which executable image each slot has, by slot."""

    generations: NDArray[np.int64]  # -1: the slot has no process
    exec_times_ns: NDArray[np.uint64]  # records from before that belong to another image
    unseen_releases: int  # by all images

    @classmethod
    def of(cls, traced: Sequence[Traced]) -> _Images:
        generations = np.full(MAX_SLOTS, -1, dtype=np.int64)
        exec_times_ns = np.full(MAX_SLOTS, np.iinfo(np.uint64).max, dtype=np.uint64)
        unseen = 0
        for one in traced:
            session = one.slot.session_now()
            generations[one.slot.number] = session["generation"]
            exec_times_ns[one.slot.number] = session["exec_time_ns"]
            unseen += one.hooks.completeness.older_releases(int(session["unseen"]))
        return cls(generations, exec_times_ns, unseen)


@dataclass(frozen=True)
class _Records:
    """Blocks and, after them, mmap'ed regions."""

    addresses: NDArray[np.uint64]
    values: NDArray[np.void]
    slots: NDArray[np.uint16]
    spaces: NDArray[np.uint8]
    region_count: int = 0

    @classmethod
    def empty(cls) -> _Records:
        nothing = np.empty(0, dtype=np.uint64)
        return cls(
            nothing,
            np.empty(0, dtype=abi.ALLOCATION),
            nothing.astype(np.uint16),
            nothing.astype(np.uint8),
        )


def _blocks_of(keys: NDArray[np.uint64], values: NDArray[np.void], images: _Images) -> _Records:
    """The records of the map, without those that an exec or a process has left behind."""
    slots = slots_of(keys)
    current = values["time_ns"] >= images.exec_times_ns[slots]
    if not current.all():
        keys, values, slots = keys[current], values[current], slots[current]
    return _Records(addresses_of(keys), values, slots, spaces_of(keys))


def _records_of(program: Program, mapped: Sequence[Records], images: _Images) -> _Records:
    keys, values = program.allocations.read_all()
    blocks = _blocks_of(keys.astype(np.uint64, copy=False), values, images)
    regions = [_Records(*one, spaces=np.zeros(len(one[1]), dtype=np.uint8)) for one in mapped]
    count = sum(len(one.values) for one in regions)
    if not count:  # spare a copy of what may be millions
        return blocks
    return _Records(
        np.concatenate([blocks.addresses, *(one.addresses for one in regions)]),
        np.concatenate([blocks.values, *(one.values for one in regions)]),
        np.concatenate([blocks.slots, *(one.slots for one in regions)]),
        np.concatenate([blocks.spaces, *(one.spaces for one in regions)]),
        count,
    )


def blocks_of(program: Program, traced: Traced) -> tuple[NDArray[np.uint64], NDArray[np.void]]:
    """The blocks of the heap that one process holds now: addresses and records. May be called by
    any thread."""
    return blocks_among(program.allocations.read_all(), traced)


def blocks_among(
    records: tuple[NDArray[np.generic], NDArray[np.void]], traced: Traced
) -> tuple[NDArray[np.uint64], NDArray[np.void]]:
    """The same of all records that the map had at some moment: keys and values."""
    keys, values = records
    blocks = _blocks_of(keys.astype(np.uint64, copy=False), values, _Images.of([traced]))
    own = (blocks.slots == traced.slot.number) & (blocks.spaces == 0)
    return blocks.addresses[own], blocks.values[own]


def _count_freed_regions(
    site_ids: NDArray[np.uint64], sites: NDArray[np.void], traced: Sequence[Traced], unit: int
) -> None:
    """The kernel side counts what was mapped. What was unmapped since is only in the ledgers of the
    processes."""
    freed: defaultdict[int, RegionTotals] = defaultdict(RegionTotals)
    for one in traced:  # lost stacks have the same id in all processes
        for stack_id, totals in one.regions.mapped.freed().items():
            freed[stack_id].bytes += totals.bytes
            freed[stack_id].count += totals.count
    wanted = np.array(list(freed), dtype=np.uint64)
    for row in np.nonzero(np.isin(site_ids, wanted))[0].tolist():
        totals = freed[int(site_ids[row])]
        # Arithmetic modulo 2**64: a hole can leave more regions than calls were made.
        sites["freed_bytes"][row] += np.uint64(totals.bytes % (1 << 64))
        sites["freed_count"][row] += np.uint64(totals.count * unit % (1 << 64))
