"""What the figures of sites are grouped by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from leaktrace.site import Frame, Site


class Grouping(StrEnum):
    """The values are the words of the command line."""

    SITE = "site"
    FUNCTION = "function"
    MODULE = "module"
    LINE = "line"
    PROCESS = "process"
    SIZE = "size"  # of blocks, by powers of two


@dataclass(frozen=True)
class Place:
    """One row of a view. What the grouping doesn't use, and what isn't known, is None."""

    function: str | None = None
    module: str | None = None
    file: str | None = None
    line: int | None = None
    offset: int | None = None  # in the module's file, or an address, of code without a name
    pid: int | None = None
    site_id: str | None = None
    below_bytes: int | None = None  # blocks smaller than this power of two, with at least half

    @property
    def is_known(self) -> bool:
        """False for what has no frame, or no process."""
        return self != UNKNOWN

    @property
    def from_bytes(self) -> int | None:
        """The smallest size of these blocks."""
        return None if self.below_bytes is None else self.below_bytes // 2


UNKNOWN = Place()


def function_of(frame: Frame) -> Place:
    """A function of one module; code without a name is told apart by its address."""
    if frame.function is not None:
        return Place(function=frame.function, module=frame.module)
    offset = frame.address if frame.module_offset is None else frame.module_offset
    return Place(module=frame.module, offset=offset)


def module_of(frame: Frame) -> Place:
    """A module; UNKNOWN for code in no file."""
    return Place(module=frame.module)


def line_of(frame: Frame) -> Place:
    """A line of source; where none is known, the function."""
    if frame.source is None:
        return function_of(frame)
    return Place(frame.function, file=frame.source.file, line=frame.source.line)


PLACE_OF_FRAME = {
    Grouping.FUNCTION: function_of,
    Grouping.MODULE: module_of,
    Grouping.LINE: line_of,
}


def places_of(site: Site, grouping: Grouping) -> Iterable[Place]:
    """The places of a site's frames, leaf first; never empty. For groupings by frame only."""
    of_frame = PLACE_OF_FRAME[grouping]
    return [of_frame(frame) for frame in site.stack.frames] or [UNKNOWN]
