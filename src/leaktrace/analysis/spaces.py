"""Takes a snapshot apart by the space of its records: the heap, and one for each pair of functions
that the user named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.regions import Regions
from leaktrace.analysis.snapshot import Snapshot


def divide(
    snapshot: Snapshot,
    record_spaces: NDArray[np.uint8],
    site_spaces: NDArray[np.uint16],
    pair_count: int,
) -> Snapshot:
    """The snapshot of the heap, with those of the pairs 1 to `pair_count` as its sections. The
    spaces are parallel to records and sites."""
    if not pair_count:
        return snapshot
    parts = []
    for space in range(pair_count + 1):
        records, sites = record_spaces == space, site_spaces == space
        parts.append(
            replace(
                snapshot.with_sites(sites),
                addresses=snapshot.addresses[records],
                records=snapshot.records[records],
                record_slots=_chosen(snapshot.record_slots, records),
                region_count=snapshot.region_count if space == 0 else 0,
                regions=snapshot.regions if space == 0 else Regions(),
                unseen_releases=snapshot.unseen_releases if space == 0 else None,
            )
        )
    return replace(parts[0], sections=tuple(parts[1:]))


def _chosen(slots: NDArray[np.uint16] | None, rows: NDArray[np.bool_]) -> NDArray[np.uint16] | None:
    return None if slots is None else slots[rows]
