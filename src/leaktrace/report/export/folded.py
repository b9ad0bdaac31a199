"""--format folded: one line per stack, outermost frame first: `main;read_request;copy_token 4096`.

The format of flamegraph.pl, inferno, and what else reads "collapsed" stacks. A line ends in one
number, so a file has one quantity. Only a report's own sites are in it, not its sections.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, BinaryIO

from leaktrace.analysis.views.parts import sites_of
from leaktrace.model import Report
from leaktrace.report.export.sites import STACK_NOT_KNOWN, frame_name
from leaktrace.site import Frame, Site

if TYPE_CHECKING:
    from leaktrace.report.export import ExportOptions

# A space before digits at the end of a line would be taken for that before the figure.
_FIGURE = re.compile(r" (?=[0-9.]+$)")


def create(options: ExportOptions) -> FoldedExport:
    return FoldedExport(options)


class FoldedExport:
    """The last report, by one quantity."""

    def __init__(self, options: ExportOptions) -> None:
        self._quantity = options.quantity
        self._last: Report | None = None

    def add(self, report: Report) -> None:
        self._last = report

    def write(self, output: BinaryIO) -> None:
        figures: dict[str, int] = {}
        names: dict[int, str] = {}  # by identity of frames, which stacks share
        for site in () if self._last is None else sites_of(self._last):
            figure = self._quantity.of(site)
            if figure:
                stack = folded_stack(site, names)
                figures[stack] = figures.get(stack, 0) + figure
        lines = "".join(f"{stack} {figure}\n" for stack, figure in figures.items())
        output.write(lines.encode())


def folded_stack(site: Site, names: dict[int, str]) -> str:
    """The stack of a site without its figure. `names` is a cache; its frames must stay alive."""
    folded = []
    for frame in reversed(site.stack.frames):
        name = names.get(id(frame))
        if name is None:
            name = names[id(frame)] = _name(frame)
        folded.append(name)
    return ";".join(folded) or STACK_NOT_KNOWN


def _name(frame: Frame) -> str:
    """The name with the characters escaped that separate frames and figures."""
    name = frame_name(frame).replace(";", "\\x3b")
    return _FIGURE.sub(r"\\x20", name)
