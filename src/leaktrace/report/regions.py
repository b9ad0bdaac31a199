"""Mapped regions in the text report: what they reserve, and how much of it is in memory."""

from __future__ import annotations

from leaktrace import units
from leaktrace.memory import Backing, RegionBytes
from leaktrace.model import Report, ThreadStacks
from leaktrace.site import Site

# What glibc keeps of the stacks of ended threads, unless a tunable says otherwise.
_KEPT_BYTES = 40 << 20


def region_in_words(site: Site) -> str:
    """Such as "64.0 MiB reserved, 3.0 MiB resident in 1 mapping"; "" if the site has no region."""
    regions = site.regions
    if regions is None:
        return ""
    where = f"in {units.counted(regions.count, 'mapping')}"
    if not regions.is_known:
        return f"{units.size(regions.reserved)} reserved {where}; {_in_memory(regions)}"
    return f"{units.size(regions.reserved)} reserved, {_in_memory(regions)} {where}"


def regions_in_words(report: Report) -> str:
    """How much of what is outstanding is reserved by mappings, and how much of that is resident; ""
    if there are none."""
    regions = report.regions
    if regions is None or report.backing is not None:
        return _section_in_words(report)
    what = units.counted(regions.count, "mapped region")
    part = f"{units.size(regions.reserved)} of it is reserved by {what}"
    if not regions.is_known:
        return f"{part}; {_in_memory(regions)}"
    return f"{part}, {_in_memory(regions)}"


def other_regions_in_words(report: Report) -> str:
    """The same of the sites that are not shown."""
    regions = report.other_regions
    if regions is None:
        return ""
    comma = "," if regions.is_known else ";"
    return f"{units.size(regions.reserved)} of it is reserved{comma} {_in_memory(regions)}"


def thread_stacks_in_words(stacks: ThreadStacks) -> str:
    """Such as "12 x 8.0 MiB reserved, 1.1 MiB resident", and how many of them no thread uses."""
    regions = stacks.regions
    if stacks.each_bytes is not None:
        text = f"{regions.count:,} x {units.size(stacks.each_bytes)} reserved"
    else:
        text = f"{units.size(regions.reserved)} reserved by {regions.count:,}"
    text += f"{'; ' if not regions.is_known else ', '}{_in_memory(regions)}"
    if stacks.idle_count:
        text += f"; at least {stacks.idle_count:,} of threads that have ended"
        if stacks.idle_bytes > _KEPT_BYTES + (stacks.each_bytes or 0):
            text += ", more than glibc keeps for reuse: were they joined?"
        else:
            text += ": kept for reuse, or not joined"
    return text


def _section_in_words(report: Report) -> str:
    """Of shared memory, or of the program break."""
    regions = report.regions
    if regions is None or report.backing in (None, Backing.MAPPED):
        return ""
    return f"of it {_in_memory(regions)}" if regions.is_known else _in_memory(regions)


def _in_memory(regions: RegionBytes) -> str:
    if not regions.is_known:
        return "how much is resident is not known"
    when = f" {units.age(regions.age_ns)} earlier" if regions.age_ns else ""
    text = f"{units.size(regions.resident)} resident{when}"
    if regions.swapped:
        text += f" and {units.size(regions.swapped)} swapped out"
    if regions.unread:
        text += f" ({units.size(regions.unread)} of it was not looked at)"
    return text
