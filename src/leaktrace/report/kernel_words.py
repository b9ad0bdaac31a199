"""The kernel's own account of memory, in words."""

from __future__ import annotations

from collections.abc import Iterable

from leaktrace import units
from leaktrace.model import SlabGrowth, UntracedGrowth


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
