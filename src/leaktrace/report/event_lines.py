"""Events (--trace) as text: one per line, aligned, suited for pipes.

         seconds  thread  function               bytes  address         callers
    12345.678901    4242  malloc                   128  0x55d0c0de1234  parse+0x2f < main+0x44
    12345.678930    4243  free                    -128  0x55d0c0de1234  parse+0x2f < main+0x44
    12345.678950    4243  free                       -  0x55d0c0de1260

Columns: seconds of CLOCK_MONOTONIC (as in dmesg and ftrace's "mono" clock), thread, function, bytes
(negative for a release; "-": unknown), address ("failed": the call allocated nothing), and the
first callers (for a release, those that allocated the block). Only the last column contains spaces.
Inlined functions are listed among the callers, without an offset.

In a file or pipe, lines are never shortened. On a terminal, they are cut to its width, and the
first line names the columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TextIO

from rich.cells import cell_len, set_cell_size

from leaktrace.model import Event, EventKind
from leaktrace.printable import ELLIPSIS, printable
from leaktrace.report.function_names import least_cells, shorten_symbol
from leaktrace.report.names import module_name, shorten_middle
from leaktrace.report.reporter import terminal_width
from leaktrace.report.runtimes import is_of_library
from leaktrace.site import Frame

COLUMN_NAMES = (
    f"{'seconds':>12}  {'thread':>6}  {'function':<16}  {'bytes':>10}  {'address':<14}  callers"
)

_FRAMES_SHOWN = 3  # physical frames, with those inlined into them
_CALLER_CELLS = 40  # on a terminal, per caller
_LEAST_CALLER_CELLS = 16
_BEFORE = " < "
_MORE = _BEFORE + ELLIPSIS


class EventText:
    """The text of the events for one output."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._named_columns = False

    def of(self, events: Iterable[Event]) -> str:
        """The lines of `events`; on a terminal, the very first line names the columns."""
        width = terminal_width(self._output)
        lines = [event_line(event, width) for event in events]
        if lines and width is not None and not self._named_columns:
            self._named_columns = True
            lines.insert(0, _cut(COLUMN_NAMES, width))
        return "".join(f"{line}\n" for line in lines)


def event_line(event: Event, width: int | None = None) -> str:
    """The line of one event, without a line break, at most `width` cells wide if that is given."""
    function = printable(event.function).replace(" ", "")
    if width is not None:
        function = shorten_middle(function, _CALLER_CELLS)
    function += " " * max(0, 16 - cell_len(function))
    size = "-" if event.size_bytes is None else str(event.size_bytes)
    if event.kind is EventKind.RELEASE and event.size_bytes is not None:
        size = f"-{size}"
    address = "failed" if event.kind is EventKind.FAIL else f"{event.address:#x}"
    seconds, nanoseconds = divmod(event.time_ns, 1_000_000_000)
    time = f"{seconds:5}.{nanoseconds // 1000:06}"
    line = f"{time}  {event.tid:6}  {function}  {size:>10}  {address:<14}  "
    frames = _first_frames(event.frames)
    if width is None:
        return (line + _BEFORE.join(map(_caller, frames))).rstrip()
    return _cut((line + _fitting(frames, width - cell_len(line))).rstrip(), width)


def _first_frames(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """The frames up to the third physical one."""
    found = 0
    for index, frame in enumerate(frames):
        found += not frame.inlined
        if found == _FRAMES_SHOWN:
            return tuple(frames[: index + 1])
    return tuple(frames)


@lru_cache(maxsize=16_384)  # the same few callers recur
def _caller(frame: Frame) -> str:
    name, suffix = _name_and_suffix(frame)
    return name + suffix


def _name_and_suffix(frame: Frame) -> tuple[str, str]:
    if frame.function is not None:
        return printable(frame.function), "" if frame.inlined else f"+{frame.offset:#x}"
    if frame.module is None:
        return f"{frame.address:#x}", ""
    if frame.module_offset is None:
        return f"{frame.address:#x}", f" [{module_name(frame.module)}]"
    return f"[{module_name(frame.module)}", f"+{frame.module_offset:#x}]"


@lru_cache(maxsize=16_384)
def _fitting(frames: tuple[Frame, ...], room: int) -> str:
    """As many callers as fit, shortened, without inlined functions of the C++ library."""
    shown = [frame for frame in frames if not (frame.inlined and is_of_library(frame))]
    if shown and room < _LEAST_CALLER_CELLS + len(_MORE):  # at 80 columns, one name fits
        return _shortened(replace(shown[0], inlined=True), room)
    line = ""
    for index, frame in enumerate(shown):
        before = _BEFORE if line else ""
        after = _MORE if index + 1 < len(shown) else ""
        left = room - cell_len(line + before + after)
        if line and _readable_cells(frame) > left:
            return line + _MORE
        line += before + _shortened(frame, min(left, _CALLER_CELLS))
    return line


def _readable_cells(frame: Frame) -> int:
    name, suffix = _name_and_suffix(frame)
    least = cell_len(name) if frame.function is None else least_cells(name)
    return min(least + len(suffix), _CALLER_CELLS)


def _shortened(frame: Frame, cells: int) -> str:
    name, suffix = _name_and_suffix(frame)
    shorten = shorten_middle if frame.function is None else shorten_symbol
    return shorten(name, max(len(ELLIPSIS), cells - len(suffix))) + suffix


def _cut(line: str, width: int) -> str:
    if cell_len(line) <= width:
        return line
    return set_cell_size(line, width - len(ELLIPSIS)).rstrip() + ELLIPSIS
