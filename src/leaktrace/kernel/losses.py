"""Everything that kernel mode can lose, in words: what it means and which option helps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi.kernel import KernelLossKind
from leaktrace.model import Loss
from leaktrace.options import Limits


def describe_kernel_losses(
    counters: NDArray[np.uint64], recursion_misses: int, limits: Limits
) -> tuple[Loss, ...]:
    """All kinds, zero or not. `counters` is indexed by KernelLossKind."""

    def count(kind: KernelLossKind) -> int:
        return int(counters[kind])

    return (
        Loss(
            "allocations",
            count(KernelLossKind.ALLOCATIONS),
            "allocations not recorded: their map is full",
            f"raise --max-allocs (now {limits.max_allocs:,}), or record fewer: --cache, -z, -s",
            bytes=count(KernelLossKind.ALLOCATION_BYTES),
        ),
        Loss(
            "stacks",
            count(KernelLossKind.STACKS),
            "allocations whose stack was not stored: the map of stacks is full",
            f"raise --max-stacks (now {limits.max_stacks:,})",
        ),
        Loss(
            "sites",
            count(KernelLossKind.SITES),
            "allocations missing from their site's totals: the map of sites is full",
            f"raise --max-stacks (now {limits.max_stacks:,})",
        ),
        Loss(
            "recursion_misses",
            # Both counters grow all the time: they may be read a moment apart.
            max(recursion_misses - count(KernelLossKind.MADE_UP_FOR), 0),
            "events skipped by the kernel: in an interrupt, during another event's program",
            "blocks they allocated are missing, blocks they freed look outstanding",
        ),
        Loss(
            "nested_programs",
            count(KernelLossKind.NESTED),
            "allocations not recorded: too many interrupts within each other",
        ),
        Loss(
            "missed_frees",
            count(KernelLossKind.UNSEEN_FREES),
            "blocks released unseen: their address was handed out again",
            "kfree_rcu and bulk frees pass no tracepoint; their sites are marked unconfirmed",
        ),
        Loss(
            "busy_records",
            count(KernelLossKind.RELEASES),
            "releases not recorded: their record was in use",
        ),
        Loss(
            "bulk_frees",
            count(KernelLossKind.BULK_FREES),
            "blocks released unseen: in batches larger than are read",
        ),
        Loss(
            "missed_returns",
            count(KernelLossKind.MISSED_RETURNS),
            "allocation calls whose return was not seen: the kernel ran out of return probes",
            "tracepoints have no such limit: --kernel-probes tracepoint",
        ),
        Loss(
            "failed_stacks",
            count(KernelLossKind.FAILED_STACKS),
            "allocations whose stack could not be read",
        ),
        Loss(
            "truncated_stacks",
            count(KernelLossKind.TRUNCATED_STACKS),
            "allocations whose stack is deeper than the kernel reads",
            "raise the sysctl kernel.perf_event_max_stack (up to 127)",
        ),
        Loss(
            "events",
            count(KernelLossKind.EVENTS),
            "traced calls not printed: the event buffer was full",
            f"raise --event-buffer-size (now {limits.event_buffer_bytes:,}), or trace fewer: "
            "--cache, -z, -s",
        ),
    )
