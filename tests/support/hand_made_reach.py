"""Snapshots by hand of processes whose memory was looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hand_made_snapshots import Held, snapshot

from leaktrace.analysis.block_classes import BlockClass, Reach
from leaktrace.analysis.snapshot import Snapshot


@dataclass(frozen=True)
class Seen:
    """A block, and what was found about it."""

    stack_id: int
    address: int
    kind: BlockClass = BlockClass.REACHABLE
    size: int = 10
    leader: int = 0  # an address
    slot: int | None = None  # of its process, if there are several
    age_ms: int = 1000


def looked_at(blocks: Sequence[Seen], slots: Sequence[int] = ()) -> Snapshot:
    """`slots`: those of the processes that there are."""
    one = snapshot([Held(each.stack_id, each.size, each.age_ms, each.address) for each in blocks])
    more: dict[str, object] = {
        "reach": Reach(
            np.array([each.kind for each in blocks], dtype=np.uint8),
            np.array([each.leader for each in blocks], dtype=np.uint64),
        )
    }
    if slots:
        more["record_slots"] = np.array([each.slot for each in blocks], dtype=np.uint16)
        more["site_slots"] = np.array(slots, dtype=np.uint16)
    return Snapshot(**{**one.__dict__, **more})
