"""Takes a snapshot apart by the space of its records: the heap, and one for each pair of functions
that the user named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from leaktrace.abi.process import RECORD_SPACE_SHIFT, SPACES
from leaktrace.analysis.snapshot import Snapshot

_MASK = SPACES - 1


def split(snapshot: Snapshot, pair_count: int) -> Snapshot:
    """The snapshot of the heap, with those of the pairs 1 to `pair_count` as its sections. The
    `addresses` of `snapshot` are keys of records."""
    if not pair_count:
        return snapshot
    of_records = snapshot.addresses >> np.uint64(RECORD_SPACE_SHIFT) & np.uint64(_MASK)
    of_sites = snapshot.sites["owner"] & np.uint16(_MASK)
    addresses = snapshot.addresses & np.uint64((1 << RECORD_SPACE_SHIFT) - 1)
    parts = []
    for space in range(pair_count + 1):
        records, sites = of_records == space, of_sites == space
        parts.append(
            replace(
                snapshot,
                addresses=addresses[records],
                records=snapshot.records[records],
                site_ids=snapshot.site_ids[sites],
                sites=snapshot.sites[sites],
                region_count=snapshot.region_count if space == 0 else 0,
            )
        )
    return replace(parts[0], sections=tuple(parts[1:]))
