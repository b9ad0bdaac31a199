"""Figures of the text report, in sentences."""

from __future__ import annotations

from collections.abc import Iterable

from leaktrace import units
from leaktrace.memory import SlabGrowth, UntracedGrowth
from leaktrace.model import Cost


def slab_growth_in_words(slab: SlabGrowth) -> str:
    """The kernel's own statistics next to ours."""
    change = units.size(abs(slab.grown_bytes))
    more = "more" if slab.grown_bytes >= 0 else "less"
    text = f"all slabs hold {change} {more} than when tracing began (/proc/slabinfo); "
    text += f"{units.size(slab.tracked_bytes)} of objects allocated since are outstanding"
    if slab.older_releases:
        text += f"; {units.counted(slab.older_releases, 'older object')} freed since"
    return text


def untraced_in_words(untraced: Iterable[UntracedGrowth]) -> str:
    """What has grown without being traced, and the options that trace it."""
    grown = [f"{one.section} {units.size_change(one.bytes)} ({one.option})" for one in untraced]
    return f"{', '.join(grown)} since tracing began"


def cost_in_words(cost: Cost) -> str:
    """Shares are of one CPU, except for the share of the target's CPU time."""
    programs = cost.programs_s_per_s or 0
    traps = "" if cost.traps_s_per_s is None else f" and {cost.traps_s_per_s:.1%} in traps"
    target = ""
    if cost.target_share is not None:
        target = f": {cost.target_share:.1%} of the CPU time that the process takes"
    share = cost.known_stack_share
    known = "" if share is None else f"; {share:.1%} of the stacks were in the cache"
    return (
        f"{cost.events_per_s:,.0f} events/s take {programs:.1%} of a CPU in BPF programs{traps}"
        f"{target}{known}; leaktrace itself takes {cost.own_cpu_share:.1%} of a CPU and "
        f"{units.size(cost.own_resident_bytes)} of memory"
    )
