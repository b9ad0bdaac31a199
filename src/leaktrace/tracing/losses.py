"""What can be lost, or is uncertain, in words: what each kind means and which option helps. The
kinds that both modes have are described here, and those of one mode in its own `losses.py`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from leaktrace.model import Loss
from leaktrace.options import Limits
from leaktrace.report.delivery import Missing


@dataclass(frozen=True)
class LossText:
    """The words for one kind of loss, or (not `is_lost`) for stacks that are uncertain or cut off.

    `hint` is a format string: {limits} stands for the run's `Limits`, {fewer} for the options with
    which fewer allocations are recorded.
    """

    name: str  # the key in JSON
    meaning: str
    hint: str = ""
    is_lost: bool = True


@dataclass(frozen=True)
class Counted:
    """How often a kind of loss happened, and how many bytes were lost where that is known."""

    text: LossText
    count: int
    bytes: int | None = None


ALLOCATIONS = LossText(
    "allocations",
    "allocations not recorded: their map is full",
    "raise --max-allocs (now {limits.max_allocs:,}), or record fewer: {fewer}",
)
STACKS = LossText(
    "stacks",
    "allocations whose stack was not stored: the map of stacks is full",
    "raise --max-stacks (now {limits.max_stacks:,})",
)
SITES = LossText(
    "sites",
    "allocations missing from their site's totals: the map of sites is full",
    "raise --max-stacks (now {limits.max_stacks:,})",
)
# The hint where a stack broke off.
RARE = "the callers beyond are unknown, and the last frame may be wrong; nothing to do if rare"

FAILED_STACKS = LossText(
    "failed_stacks", "allocations whose stack could not be read", "nothing to do if rare"
)
EVENTS = LossText(
    "events",
    "traced calls not printed: the event buffer was full",
    "raise --event-buffer-size (now {limits.event_buffer_bytes:,}), or trace fewer: {fewer}",
)
_UNPRINTED = LossText(
    "unprinted_events",
    "traced calls not printed: the run was interrupted first",
    "the figures include them; to see all calls, trace fewer: -z, -s",
)


def missed_frees(hint: str) -> LossText:
    """The loss of releases that were not seen; `hint` gives the cause in the mode."""
    return LossText(
        "missed_frees", "blocks freed without being seen (their address was allocated again)", hint
    )


def describe(counted: Iterable[Counted], limits: Limits, *, fewer: str) -> tuple[Loss, ...]:
    """Every kind, also those that did not happen. For `fewer` see `LossText`."""
    return tuple(
        Loss(
            one.text.name,
            one.count,
            one.text.meaning,
            one.text.hint.format(limits=limits, fewer=fewer),
            one.bytes,
            one.text.is_lost,
        )
        for one in counted
    )


def unprinted_calls(count: int) -> Loss:
    """Traced calls (--trace) that were recorded and not printed."""
    return Loss(_UNPRINTED.name, count, _UNPRINTED.meaning, _UNPRINTED.hint)


_SLOW = "let it read faster, write to a file with --output, or choose a longer INTERVAL"
_FULL = "free some space there: stderr says what failed"


def missing_output(missing: Missing) -> tuple[Loss, ...]:
    """What was reported before and has not arrived where reports go."""
    return (
        Loss(
            "unread_reports",
            missing.unread_reports,
            "reports left out: the reader of the output was too slow, or had stopped",
            _SLOW,
        ),
        Loss(
            "unread_events",
            missing.unread_calls,
            "traced calls not printed: the reader of the output was too slow, or had stopped",
            _SLOW,
        ),
        Loss(
            "unwritten_reports",
            missing.unwritten_reports,
            "reports not written: the disk was full, or failed",
            _FULL,
        ),
        Loss(
            "unwritten_events",
            missing.unwritten_calls,
            "traced calls not written: the disk was full, or failed",
            _FULL,
        ),
    )
