"""How much of the growth of the process the tracked memory explains, in text and JSON.

RSS +64.0 MiB since attach: outstanding +4.0 MiB, not explained +60.0 MiB
  free memory kept by the allocator: at most 57.0 MiB; mapped files +3.0 MiB
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from leaktrace import units
from leaktrace.memory import Explained
from leaktrace.model import Report
from leaktrace.report.layout import flowed
from leaktrace.report.names import shorten_middle

_LEAST_BYTES = 1 << 20  # what is smaller needs no explanation
_MOST_LINES = 2
# What is less is called the rest: headers, rounding up, buffers of the C library.
_LARGE_BYTES = 4 << 20
_LARGE_SHARE = 0.2  # of the growth, or of the tracked memory


def explained_lines(report: Report, width: int) -> Iterator[Text]:
    """At most two lines; none if little has changed, or if the two can't be compared. Where a
    remark of the report says why the two differ, one line is enough."""
    explained = report.explained
    if explained is None:
        return
    tracked = explained.outstanding_held + explained.other_memory
    if max(abs(explained.resident_growth), tracked) < _LEAST_BYTES:
        return
    sums = list(_listed([*_sums(report, explained, tracked)], width))
    yield from sums[:_MOST_LINES]
    is_remarked = any(not remark.kind.is_of_completeness for remark in report.remarks)
    is_more = explained.unexplained > 0 and _is_large(explained, tracked)
    if is_more and not is_remarked and len(sums) < _MOST_LINES:
        parts = [Text(part) for part in _parts(explained)]
        if parts:
            yield from _one_line([Text("  ").append_text(parts[0]), *parts[1:]], width)


def _is_large(explained: Explained, tracked: int) -> bool:
    whole = max(abs(explained.resident_growth), tracked)
    return abs(explained.unexplained) >= max(_LARGE_BYTES, whole * _LARGE_SHARE)


def _sums(report: Report, explained: Explained, tracked: int) -> Iterator[str]:
    """The figures, which add up."""
    about = "~" if report.is_estimate else ""
    since = "since it started" if explained.is_all else "since attach"
    outstanding = units.size_change(explained.outstanding)
    if explained.outstanding_held != explained.outstanding:
        outstanding += f" (takes {about}{units.size(explained.outstanding_held)})"
    growth = units.size_change(explained.resident_growth)
    yield f"RSS {growth} {since}: outstanding {about}{outstanding}"
    if explained.other_memory:
        yield f"other memory {units.size_change(explained.other_memory)}"
    rest = explained.unexplained
    if not _is_large(explained, tracked):
        name = "rest"
    elif rest > 0:
        name = "not explained"
    else:
        # Of a process that was there before, tracked memory may also have replaced other memory.
        name = "not resident" if explained.is_all else "untouched/reused"
    yield f"{name} {about}{units.size_change(rest)}"


def _listed(parts: Sequence[str], width: int) -> Iterator[Text]:
    """Parts separated by commas, in lines that are broken between parts."""
    line = ""
    for number, part in enumerate(parts, start=1):
        comma = number < len(parts)
        if line and len(line) + 2 + len(part) + comma > width:
            yield Text(shorten_middle(f"{line},", width))
            line = f"  {part}"
        else:
            line = f"{line}, {part}" if line else part
    if line:
        yield Text(shorten_middle(line, width))


def _parts(explained: Explained) -> Iterator[str]:
    """What the part that isn't explained may be, the most telling first."""
    kept, grew, huge = explained.allocator_at_most, explained.since_attach, explained.huge_pages
    if kept >= _LEAST_BYTES:
        yield f"allocator's free memory: at most {units.size(kept)}"
    if huge is not None and huge.lazily_freed >= _LEAST_BYTES:
        yield f"given back lazily {units.size(huge.lazily_freed)}"
    if grew.file >= _LEAST_BYTES:
        yield f"mapped files {units.size_change(grew.file)}"
    if grew.shared - explained.other_memory >= _LEAST_BYTES:
        yield f"shared memory {units.size_change(grew.shared)}"
    if huge is not None and huge.huge >= _LEAST_BYTES:
        yield f"in huge pages {units.size(huge.huge)}"
    if explained.new_threads > 0:
        yield f"stacks of {units.counted(explained.new_threads, 'new thread')}"
    if not explained.is_all:
        yield "older memory touched since"


def _one_line(fields: list[Text], width: int) -> Iterator[Text]:
    """As many of the fields as fit in one line."""
    for line in flowed(fields, width):
        yield line
        return


def explained_object(explained: Explained) -> dict[str, object]:
    """The object "explained" of a report (schema `leaktrace/report/1`)."""
    huge = explained.huge_pages
    return {
        "resident_growth_bytes": explained.resident_growth,
        "outstanding_bytes": explained.outstanding,
        "outstanding_held_bytes": explained.outstanding_held,
        "other_memory_bytes": explained.other_memory,
        "unexplained_bytes": explained.unexplained,
        "allocator_free_at_most_bytes": explained.allocator_at_most,
        "file_growth_bytes": explained.since_attach.file,
        "shared_growth_bytes": explained.since_attach.shared,
        "not_resident_growth_bytes": explained.not_resident,
        "new_threads": explained.new_threads,
        "huge_page_bytes": None if huge is None else huge.huge,
        "lazily_freed_bytes": None if huge is None else huge.lazily_freed,
        **({"is_all": True} if explained.is_all else {}),
    }
