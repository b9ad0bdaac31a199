"""What kernel mode can lose, in words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi.kernel import KernelLossKind
from leaktrace.model import Loss
from leaktrace.options import Limits
from leaktrace.tracing import losses
from leaktrace.tracing.losses import Counted, LossText

_RECURSION_MISSES = LossText(
    "recursion_misses",
    "events that the kernel skipped, because a program was already running on that CPU",
    "nothing to do if rare: blocks they allocated are missing, blocks they freed look outstanding",
)
_BY_COUNTER: dict[KernelLossKind, LossText] = {
    KernelLossKind.ALLOCATIONS: losses.ALLOCATIONS,
    KernelLossKind.STACKS: losses.STACKS,
    KernelLossKind.SITES: losses.SITES,
    KernelLossKind.MADE_UP_FOR: _RECURSION_MISSES,
    KernelLossKind.NESTED: LossText(
        "nested_programs",
        "allocations not recorded: interrupts were nested too deeply",
        "nothing to do if rare: their blocks are missing",
    ),
    KernelLossKind.UNSEEN_FREES: losses.missed_frees(
        "kfree_rcu and bulk frees have no tracepoint: what was freed so may look outstanding"
    ),
    KernelLossKind.RELEASES: LossText(
        "busy_records",
        "releases not recorded: another CPU was changing the record",
        "nothing to do if rare: their blocks look outstanding",
    ),
    KernelLossKind.BULK_FREES: LossText(
        "bulk_frees",
        "releases not seen: a bulk free was larger than leaktrace can read",
        "nothing to do if rare: their blocks look outstanding",
    ),
    KernelLossKind.MISSED_RETURNS: LossText(
        "missed_returns",
        "allocation calls whose return was not seen: the kernel ran out of return probes",
        "use tracepoints, which have no such limit: --kernel-probes tracepoint",
    ),
    KernelLossKind.FAILED_STACKS: losses.FAILED_STACKS,
    KernelLossKind.TRUNCATED_STACKS: LossText(
        "truncated_stacks",
        "allocations whose stack is deeper than the kernel reads",
        "raise the sysctl kernel.perf_event_max_stack (up to 127)",
        is_lost=False,
    ),
    KernelLossKind.EVENTS: losses.EVENTS,
}


def describe_kernel_losses(
    counters: NDArray[np.uint64], recursion_misses: int, limits: Limits
) -> tuple[Loss, ...]:
    """Every kind, also those that did not happen. `counters` is indexed by KernelLossKind;
    `recursion_misses` counts the runs of programs that the kernel skipped."""
    counts = {kind: int(counters[kind]) for kind in _BY_COUNTER}
    # Some skipped runs are made up for by another program. Both counters grow all the time, and
    # they may be read a moment apart.
    made_up_for = counts[KernelLossKind.MADE_UP_FOR]
    counts[KernelLossKind.MADE_UP_FOR] = max(recursion_misses - made_up_for, 0)
    lost_bytes = {KernelLossKind.ALLOCATIONS: int(counters[KernelLossKind.ALLOCATION_BYTES])}
    counted = [
        Counted(text, counts[kind], lost_bytes.get(kind)) for kind, text in _BY_COUNTER.items()
    ]
    return losses.describe(counted, limits, fewer="--cache, -z, -s")
