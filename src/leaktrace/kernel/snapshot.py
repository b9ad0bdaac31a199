"""Reads the maps of kernel mode: one `Snapshot` per allocator."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi.kernel import KERNEL_ALLOCATION, SECTION_SHIFT, Section
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.kernel.program import KernelProgram
from leaktrace.kernel.slab import SlabCache, read_slab_caches

_SECTION_SHIFT = np.uint64(SECTION_SHIFT)
_ADDRESS_MASK = np.uint64((1 << SECTION_SHIFT) - 1)
_KERNEL_TOP = np.uint64(0xF << SECTION_SHIFT)


@dataclass(frozen=True)
class KernelSnapshot:
    """Snapshots by section (with records of KERNEL_ALLOCATION and sites of KERNEL_SITE),
    /proc/slabinfo at the same moment, and the number of frees of older blocks: those that were
    allocated before tracing began."""

    sections: dict[Section, Snapshot]
    recursion_misses: int
    older_releases: dict[Section, int]
    slab_caches: dict[str, SlabCache]


def take_kernel_snapshot(
    program: KernelProgram,
    sections: tuple[Section, ...],
    is_wanted: Callable[[int], bool] | None,
    *,
    combined_only: bool,
) -> KernelSnapshot:
    """Read the maps. `is_wanted` says whether the site of a stack id passes the filters by name;
    None: there are no such filters."""
    time_ns = time.monotonic_ns()
    slab_caches = read_slab_caches()
    _, losses = program.losses.read_all()
    keys, records = np.empty(0, dtype=np.uint64), np.empty(0, dtype=KERNEL_ALLOCATION)
    if not combined_only:
        keys, records = program.allocations.read_all()
    site_ids, sites = program.sites.read_all()
    if is_wanted is not None:
        kept = _passing(site_ids, is_wanted)
        site_ids, sites = site_ids[kept], sites[kept]
        kept = _passing(records["stack_id"], is_wanted)
        keys, records = keys[kept], records[kept]

    owners = keys >> _SECTION_SHIFT
    return KernelSnapshot(
        sections={
            section: Snapshot(
                time_ns=time_ns,
                generation=0,
                addresses=_addresses(keys[owners == section], section),
                records=records[owners == section],
                site_ids=site_ids[sites["section"] == section],
                sites=sites[sites["section"] == section],
                losses=losses.view(np.uint64),
            )
            for section in sections
        },
        recursion_misses=program.recursion_misses(),
        older_releases={section: _older(program, section) for section in sections},
        slab_caches=slab_caches,
    )


def _passing(stack_ids: NDArray[np.uint64], is_wanted: Callable[[int], bool]) -> NDArray[np.bool_]:
    unique, rows = np.unique(stack_ids, return_inverse=True)
    verdicts = np.array([is_wanted(stack_id) for stack_id in unique.tolist()], dtype=np.bool_)
    passing: NDArray[np.bool_] = verdicts[rows]
    return passing


def _addresses(keys: NDArray[np.uint64], section: Section) -> NDArray[np.uint64]:
    """Keys contain the section in the upper bits of the address (bpf/kernel/records.bpf.c:
    key_of)."""
    addresses = keys & _ADDRESS_MASK
    # Per-CPU pointers are offsets and may be small. All others are kernel addresses.
    return addresses if section is Section.PERCPU else addresses | _KERNEL_TOP


def _older(program: KernelProgram, section: Section) -> int:
    each = program.older_releases.lookup(int(section))
    return 0 if each is None else int(np.sum(each))
