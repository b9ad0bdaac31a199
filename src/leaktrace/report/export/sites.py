"""What all exports share: which sites they show, and what frames are called."""

from __future__ import annotations

from collections.abc import Iterator

from leaktrace.model import Report
from leaktrace.printable import printable
from leaktrace.report.names import module_name
from leaktrace.report.sections import section_name
from leaktrace.site import Frame

STACK_NOT_KNOWN = "[stack not known]"


def sections_of(report: Report) -> Iterator[tuple[str, Report]]:
    """(name, report) of each section: other allocators of the kernel, other memory, pairs of
    functions, file descriptors. Their figures are not part of the report's, and are never added to
    them. The names are printable, not empty, and different."""
    taken: set[str] = set()
    for section in (*report.sections, *report.other_memory):
        named = section_name(section) if section.pair is None else printable(_pair(section))
        name = plain = named or "section"
        number = 1
        while name in taken:
            number += 1
            name = f"{plain} ({number})"
        taken.add(name)
        yield name, section


def frame_name(frame: Frame) -> str:
    """The name of a frame, printable and not empty; of one that has none, where it is."""
    if frame.function:
        return printable(frame.function)
    if frame.module is None:
        return f"{frame.address:#x}"
    if frame.module_offset is None:
        return f"[{module_name(frame.module)}] {frame.address:#x}"
    return f"[{module_name(frame.module)}+{frame.module_offset:#x}]"


def _pair(section: Report) -> str:
    return section.section or (section.pair.allocate if section.pair else "")
