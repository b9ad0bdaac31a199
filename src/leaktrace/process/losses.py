"""What process mode can lose, or is uncertain of, in words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi.process import LossKind, WalkResult
from leaktrace.model import Loss
from leaktrace.options import Limits
from leaktrace.tracing import losses
from leaktrace.tracing.losses import Counted, LossText

# Where a stack breaks off, nothing is lost: its allocations are in the figures. Only its last frame
# may be wrong: often that is why it breaks off.
_BY_COUNTER: dict[int, LossText] = {
    LossKind.ALLOCATIONS: losses.ALLOCATIONS,
    LossKind.STACKS: losses.STACKS,
    LossKind.SITES: losses.SITES,
    LossKind.FAILED_STACKS: losses.FAILED_STACKS,
    LossKind.WALKS + WalkResult.TOO_DEEP: LossText(
        "truncated_stacks",
        "allocations whose stack is deeper than leaktrace can walk",
        "no option changes this: the callers beyond the deepest frame shown are unknown",
        is_lost=False,
    ),
    LossKind.GUESSED_STACKS: LossText(
        "guessed_stacks",
        "allocations with a frame found by frame pointer, because there were no unwind tables",
        is_lost=False,
    ),
    LossKind.WALKS + WalkResult.NO_MAPPING: LossText(
        "unmapped_code",
        "allocations whose stack broke off at code that had just been mapped, or at a wrong frame",
        losses.RARE,
        is_lost=False,
    ),
    LossKind.WALKS + WalkResult.NO_ROW: LossText(
        "untabled_code",
        "allocations whose stack broke off at code without unwind tables",
        losses.RARE,
        is_lost=False,
    ),
    LossKind.WALKS + WalkResult.GENERATED_CODE: LossText(
        "generated_code",
        "allocations whose stack ends in code that was made at run time, without a frame pointer",
        is_lost=False,
    ),
    LossKind.WALKS + WalkResult.NO_RULE: LossText(
        "inexpressible_rules",
        "allocations whose stack broke off at code with unwind rules that leaktrace can't follow",
        losses.RARE,
        is_lost=False,
    ),
    LossKind.WALKS + WalkResult.UNREADABLE: LossText(
        "unreadable_stacks",
        "allocations whose stack broke off at memory that could not be read",
        losses.RARE,
        is_lost=False,
    ),
    LossKind.WALKS + WalkResult.NOT_UPWARD: LossText(
        "misordered_frames",
        "allocations whose stack broke off because the next frame was not above the current one",
        losses.RARE,
        is_lost=False,
    ),
    LossKind.WALKS + WalkResult.FOREIGN_PROBE: LossText(
        "foreign_probes",
        "allocations whose stack broke off at a return probe, which hides the caller",
        "if the probe is another tool's, end that tool; if it is leaktrace's own (leaktrace doctor "
        "-p PID lists those), a signal interrupted the probed function",
        is_lost=False,
    ),
    LossKind.THREADS: LossText(
        "threads",
        "calls not tracked: the map of threads is full",
        "raise --max-threads (now {limits.max_threads:,})",
    ),
    LossKind.STALE_CALLS: LossText(
        "stale_calls",
        "allocation calls that were left by longjmp or an exception: no return was seen",
        "if they allocated anything, it is not recorded",
    ),
    LossKind.MISSED_RETURNS: LossText(
        "missed_returns",
        "returns of allocation calls whose entry was not seen",
        "what they allocated is not recorded",
    ),
    LossKind.MISSED_FREES: losses.missed_frees(
        "something frees memory without calling the hooked functions; leaktrace doctor -p PID "
        "lists the hooked functions"
    ),
    LossKind.UNREAD_RESULTS: LossText(
        "unread_results",
        "results of posix_memalign that could not be read",
        "nothing to do if rare: their blocks are not recorded",
    ),
    LossKind.LEFT_CALLS: LossText(
        "left_calls",
        "calls of --pair functions that went on in code which only the process knows",
        "what they returned is not recorded; name the function that does the work",
    ),
    LossKind.FAR_ADDRESSES: LossText(
        "far_addresses",
        "allocations at addresses, or results of --pair functions, of more than 48 bits",
        "they are not recorded: only pointers and small numbers can be followed",
    ),
    LossKind.REGION_EVENTS: LossText(
        "region_events",
        "calls that map, attach or unmap memory or move the program break, forks, execs or loads "
        "of libraries missed: their buffer was full",
        "raise --event-buffer-size (now {limits.event_buffer_bytes:,}); until then the figures of "
        "mapped regions may be wrong, and stacks through new libraries may lack names",
    ),
    LossKind.BREAKS: LossText(
        "breaks",
        "calls of brk and sbrk whose effect is not known: where the break was could not be read",
        "what they took is in no figure; nothing to do if rare",
    ),
    LossKind.SEGMENTS: LossText(
        "segments",
        "attached segments of shared memory (SysV) whose size could not be read",
        "they are in no figure; nothing to do if the process has just ended",
    ),
    LossKind.CHILDREN: LossText(
        "children",
        "child processes that could not be followed: too many ran at a time",
        "what they allocate is in no figure",
    ),
    LossKind.DESCRIPTORS: LossText(
        "descriptors",
        "file descriptors not recorded: the map of allocations is full",
        "raise --max-allocs (now {limits.max_allocs:,})",
    ),
    LossKind.UNREAD_FDS: LossText(
        "unread_descriptors",
        "file descriptors not recorded: they came where they could not be read, or in a message "
        "with more than 16",
        "nothing to do if rare: they are in the number of open descriptors only",
    ),
    LossKind.CLOSED_RANGES: LossText(
        "closed_ranges",
        "calls of close_range for which there was no room: they closed ever other ranges",
        "once the process has ended, descriptors may be shown that they have closed",
    ),
    LossKind.EVENTS: losses.EVENTS,
}


def describe_losses(counters: NDArray[np.uint64], limits: Limits) -> tuple[Loss, ...]:
    """Every kind, also those that did not happen. `counters` is indexed by LossKind, and from
    LossKind.WALKS on by WalkResult."""
    lost_bytes: dict[int, int] = {
        LossKind.ALLOCATIONS: int(counters[LossKind.ALLOCATION_BYTES]),
    }
    counted = [
        Counted(text, int(counters[counter]), lost_bytes.get(counter))
        for counter, text in _BY_COUNTER.items()
    ]
    return losses.describe(counted, limits, fewer="-z, -s")
