"""Events (--trace) as text: one a line, aligned, made for piping.

    12345.678901  4242  malloc                 128  0x55d0c0de1234  parse_header+0x2f < main+0x44
    12345.678950  4242  free                     -  0x55d0c0de1234  release+0x10

Columns: seconds of CLOCK_MONOTONIC (as in dmesg and ftrace's "mono" clock), thread, function,
bytes ("-": unknown), address ("failed": the call allocated nothing), the first callers. No column
but the last contains a space.
"""

from __future__ import annotations

from functools import lru_cache

from rich.cells import cell_len

from leaktrace.model import Event, EventKind, Frame
from leaktrace.report.function_names import shorten_symbol
from leaktrace.report.names import module_name, physical, printable

_FRAMES_SHOWN = 3
_FUNCTION_CELLS = 40


def event_line(event: Event) -> str:
    """The line of one event, without a line break."""
    function = printable(event.function).replace(" ", "")
    function += " " * max(0, 16 - cell_len(function))
    size = "-" if event.size_bytes is None else str(event.size_bytes)
    address = "failed" if event.kind is EventKind.FAIL else f"{event.address:#x}"
    seconds, nanoseconds = divmod(event.time_ns, 1_000_000_000)
    line = (
        f"{seconds:5}.{nanoseconds // 1000:06} {event.tid:5}  {function} {size:>12}  {address:<14}"
    )
    callers = " < ".join(_caller(frame) for frame in _first_frames(event))
    return f"{line}  {callers}".rstrip()


def _first_frames(event: Event) -> list[Frame]:
    return list(physical(event.frames))[:_FRAMES_SHOWN]


@lru_cache(maxsize=16_384)  # the same few callers come again and again
def _caller(frame: Frame) -> str:
    if frame.function is None:
        where = f" [{module_name(frame.module)}]" if frame.module else ""
        return f"{frame.address:#x}{where}"
    return f"{shorten_symbol(printable(frame.function), _FUNCTION_CELLS)}+{frame.offset:#x}"
