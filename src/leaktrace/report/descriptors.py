"""What only sections about file descriptors have, as text."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from leaktrace import units
from leaktrace.model import DescriptorInfo, DescriptorUse
from leaktrace.printable import printable
from leaktrace.report.layout import wrapped
from leaktrace.report.names import shorten_middle
from leaktrace.site import OpenDescriptor, Site

_MOST_PROCESSES = 3  # those that are nearest to their limits
_MOST_TARGET_CELLS = 40
_COUNTABLE = ("file", "socket", "pipe", "duplicate", "mount", "event", "queue", "fd")


def descriptor_lines(info: DescriptorInfo, width: int) -> Iterator[Text]:
    """How many descriptors the processes have open, and what is not known of them."""
    nearest = sorted(info.use, key=_used_share, reverse=True)[:_MOST_PROCESSES]
    for use in nearest:
        whose = f"process {use.pid}: " if len(info.use) > 1 else ""
        for line in wrapped("  ", whose + _use_in_words(use), width):
            if use.is_near_limit:
                line.stylize("bold red")
            yield line
    if info.unseen_closes:
        text = "closed in a way that is not traced (io_uring), and opened again: "
        text += units.counted(info.unseen_closes, "descriptor")
        yield from wrapped("  ", text, width)


def _used_share(use: DescriptorUse) -> float:
    return use.open_count / use.limit if use.limit else 0.0


def _use_in_words(use: DescriptorUse) -> str:
    text = units.number(use.open_count)
    if use.limit is not None:
        text += f" of {units.number(use.limit)}"
    text += " open"
    if use.is_near_limit:
        is_reached = use.open_count >= (use.limit or 0)
        text += ": the limit is reached" if is_reached else ": the limit is near"
    if use.older:
        since = "its last exec" if use.has_executed else "the trace"
        text += f"; {units.number(use.older)} from before {since}"
    if use.unexplained:
        text += f"; {units.number(use.unexplained)} opened since in a way that is not traced"
    return text


def kinds_in_words(site: Site) -> str:
    """What the descriptors of a site are, and the oldest of them."""
    if len(site.kinds) == 1:
        text = _plural(*site.kinds[0])
    else:
        each = (f"{units.number(count)} {_plural(kind, count)}" for kind, count in site.kinds)
        text = ", ".join(each)
    if site.examples:
        label = "oldest" if site.count > len(site.examples) else "open"
        text += f"; {label}: " + ", ".join(map(_in_words, site.examples))
    return text


def _plural(kind: str, count: int) -> str:
    return f"{kind}s" if count != 1 and kind.endswith(_COUNTABLE) else kind


def _in_words(one: OpenDescriptor) -> str:
    text = f"fd {one.number}"
    if one.pid is not None:
        text += f" of {one.pid}"
    if one.target is not None:
        text += f" {shorten_middle(printable(one.target), _MOST_TARGET_CELLS)}"
    return text
