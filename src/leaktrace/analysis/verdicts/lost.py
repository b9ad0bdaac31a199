"""Verdicts from what the memory of the process says (--lost), which overrule those from time."""

from __future__ import annotations

from dataclasses import replace

from leaktrace import units
from leaktrace.analysis.reachability.called_lost import CalledLost
from leaktrace.analysis.reachability.lost_sites import LostTable
from leaktrace.reach import LostShare
from leaktrace.verdict import Verdict, VerdictKind

_MOST_SITES = 1000  # with lost blocks that get a verdict
_NOT_BELIEVED = "pointers to its blocks can't be found: some that had none were freed later"


def with_lost(
    verdicts: dict[int, Verdict], table: LostTable, called: CalledLost
) -> dict[int, Verdict]:
    """The verdicts by stack id, with those of sites whose blocks are lost, whatever time says."""
    known = dict(verdicts)
    for stack_id, verdict in verdicts.items():
        share = table.of(stack_id)
        if share is None or share.definite_count or share.led_count:
            continue
        if verdict.grows:
            known[stack_id] = replace(verdict, reason=f"{verdict.reason}; {_referenced(share)}")
    for stack_id in table.leaking(_MOST_SITES):
        share = table.of(stack_id)
        assert share is not None  # it has lost blocks
        by_time = verdicts.get(stack_id)
        if called.is_believed(stack_id):
            known[stack_id] = _leak(share, by_time)
        elif by_time is not None:
            known[stack_id] = replace(by_time, reason=f"{by_time.reason}; {_NOT_BELIEVED}")
    return known


def without_led(verdicts: dict[int, Verdict]) -> dict[int, Verdict]:
    """The verdicts that are left if those of the sites whose lost blocks lead to others were taken
    out, because the user knows them."""
    if any(one.lost_count for one in verdicts.values()):
        return verdicts
    return {one: of for one, of in verdicts.items() if of.kind is not VerdictKind.LEAK}


def lost_in_words(share: LostShare) -> str:
    """How many blocks of a site nothing points to, or only lost blocks do."""
    scanned = f"{share.scanned_count:,}"
    if not share.definite_count:
        number = "" if share.led_count == share.scanned_count else f"{share.led_count:,} of "
        return f"only lost blocks point to {number}its {scanned} blocks"
    number = f"{share.definite_count:,} of its {scanned} blocks"
    if share.definite_count == share.scanned_count:
        number = "its only block" if share.scanned_count == 1 else f"any of its {scanned} blocks"
    text = f"nothing points to {number} ({units.size(share.definite_bytes)})"
    if share.indirect_count:
        text += f", and only they lead to {units.counted(share.indirect_count, 'other block')} "
        text += f"({units.size(share.indirect_bytes)})"
    return text


def _leak(share: LostShare, by_time: Verdict | None) -> Verdict:
    """`by_time`: how fast it grows is known from it."""
    verdict = by_time
    if verdict is None or not verdict.grows:
        verdict = Verdict(VerdictKind.LEAK)
    # What only other blocks lead to counts with those.
    return replace(
        verdict,
        kind=VerdictKind.LEAK,
        reason=lost_in_words(share),
        needs_s=None,
        lost_bytes=share.definite_bytes + share.indirect_bytes,
        lost_count=share.definite_count + share.indirect_count,
    )


def _referenced(share: LostShare) -> str:
    if not share.possible_count:
        return f"still referenced: something points to each of the {share.scanned_count:,} examined"
    return (
        f"still referenced: something points to each of the {share.scanned_count:,} examined, but "
        f"only into the middle of {share.possible_count:,}"
    )
