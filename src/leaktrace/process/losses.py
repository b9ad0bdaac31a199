"""Everything that can be lost, or guessed, in words: what it means and which option helps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi.process import LossKind, WalkResult
from leaktrace.model import Loss
from leaktrace.options import Limits


def describe_losses(counters: NDArray[np.uint64], limits: Limits) -> tuple[Loss, ...]:
    """All kinds, zero or not. `counters` is indexed by LossKind."""

    def count(kind: LossKind) -> int:
        return int(counters[kind])

    def walks(result: WalkResult) -> int:
        return int(counters[LossKind.WALKS + result])

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
            walks(WalkResult.TOO_DEEP),
            "allocations whose stack is deeper than the walker goes",
            "their callers beyond the deepest frame shown are unknown",
        ),
        Loss(
            "guessed_stacks",
            count(LossKind.GUESSED_STACKS),
            "allocations with a frame found by frame pointer, for want of unwind tables",
            is_lost=False,
        ),
        Loss(
            "unmapped_code",
            walks(WalkResult.NO_MAPPING),
            "allocations whose stack broke off at code mapped a moment before, or at a wrong frame",
        ),
        Loss(
            "untabled_code",
            walks(WalkResult.NO_ROW),
            "allocations whose stack broke off at code without unwind tables",
        ),
        Loss(
            "inexpressible_rules",
            walks(WalkResult.NO_RULE),
            "allocations whose stack broke off at code whose unwind rules can't be followed",
        ),
        Loss(
            "unreadable_stacks",
            walks(WalkResult.UNREADABLE),
            "allocations whose stack broke off at memory that could not be read",
        ),
        Loss(
            "crooked_stacks",
            walks(WalkResult.NOT_UPWARD),
            "allocations whose stack broke off at a frame that lies below its callee's",
        ),
        Loss(
            "foreign_probes",
            walks(WalkResult.FOREIGN_PROBE),
            "allocations whose stack broke off at a return probe, which hides the caller",
            "another tool's: end it; or one of leaktrace's own (leaktrace doctor -p PID), at which "
            "a signal came",
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
            "allocation calls that were not seen to return: left by longjmp or an exception",
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
            "something frees memory past the hooked functions (leaktrace doctor -p PID)",
        ),
        Loss(
            "unread_results",
            count(LossKind.UNREAD_RESULTS),
            "results of posix_memalign that could not be read",
        ),
        Loss(
            "region_events",
            count(LossKind.REGION_EVENTS),
            "mmap, munmap and mremap calls, forks or execs missed: their buffer was full",
            f"raise --event-buffer-size (now {limits.event_buffer_bytes:,}); until then figures of "
            "mapped regions may be off",
        ),
        Loss(
            "events",
            count(LossKind.EVENTS),
            "traced calls not printed: the event buffer was full",
            f"raise --event-buffer-size (now {limits.event_buffer_bytes:,}), or trace fewer: "
            "-z, -s",
        ),
    )


def unprinted_calls(count: int) -> Loss:
    """Traced calls (--trace) that were recorded and that no line tells of."""
    return Loss(
        "unprinted_events",
        count,
        "traced calls not printed: the run was interrupted before they were",
        "figures have them; trace fewer to see all: -z, -s",
    )
