"""Everything that can be lost, in words: what it means and which option helps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi import LossKind
from leaktrace.model import Loss
from leaktrace.options import Limits


def describe_losses(counters: NDArray[np.uint64], limits: Limits) -> tuple[Loss, ...]:
    """All kinds, zero or not. `counters` is indexed by LossKind."""

    def count(kind: LossKind) -> int:
        return int(counters[kind])

    return (
        Loss(
            "allocations",
            count(LossKind.ALLOCATIONS),
            "allocations not recorded: their map is full",
            f"raise --max-allocs (now {limits.max_allocs:,}), or record fewer: -z, -s",
            bytes=count(LossKind.ALLOCATION_BYTES),
        ),
        Loss(
            "stacks",
            count(LossKind.STACKS),
            "allocations whose stack was not stored: the map of stacks is full",
            f"raise --max-stacks (now {limits.max_stacks:,})",
        ),
        Loss(
            "sites",
            count(LossKind.SITES),
            "allocations missing from their site's totals: the map of sites is full",
            f"raise --max-stacks (now {limits.max_stacks:,})",
        ),
        Loss(
            "failed_stacks",
            count(LossKind.FAILED_STACKS),
            "allocations whose stack could not be read",
        ),
        Loss(
            "truncated_stacks",
            count(LossKind.TRUNCATED_STACKS),
            "allocations whose stack is deeper than the walker goes",
            "their callers beyond the deepest frame shown are unknown",
        ),
        Loss(
            "threads",
            count(LossKind.THREADS),
            "calls not tracked: the map of threads is full",
            f"raise --max-threads (now {limits.max_threads:,})",
        ),
        Loss(
            "stale_calls",
            count(LossKind.STALE_CALLS),
            "allocation calls that never returned: left by longjmp or an exception",
            "what they allocated, if anything, is not recorded",
        ),
        Loss(
            "missed_returns",
            count(LossKind.MISSED_RETURNS),
            "returns of allocation calls whose beginning was not seen",
            "what they allocated is not recorded",
        ),
        Loss(
            "missed_frees",
            count(LossKind.MISSED_FREES),
            "blocks released unseen: their address was handed out again",
            "something frees memory past the hooked functions",
        ),
        Loss(
            "unread_results",
            count(LossKind.UNREAD_RESULTS),
            "results of posix_memalign that could not be read",
        ),
        Loss(
            "region_events",
            count(LossKind.REGION_EVENTS),
            "mmap, munmap and mremap calls missed: their buffer was full",
            "figures of mapped regions may be off",
        ),
        Loss(
            "events",
            count(LossKind.EVENTS),
            "traced calls not printed: the event buffer was full",
            "raise --event-buffer-size, or trace fewer: -z, -s",
        ),
    )
