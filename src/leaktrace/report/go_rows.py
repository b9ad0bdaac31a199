"""Parts of the text report of `leaktrace go`: two columns, places in the source, stacks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import dropwhile, groupby
from pathlib import PurePosixPath

from rich.cells import cell_len
from rich.text import Text

from leaktrace import units
from leaktrace.go_report import GoLine
from leaktrace.printable import printable
from leaktrace.report.names import shorten_middle

WRAPPER = re.compile(r"\.gowrap\d+$")  # what the compiler makes of `go f(x)`, since Go 1.22
_RUNTIME = "runtime."
_MOST_FRAMES = 12  # of a stack
_FUNCTION_COLUMNS = 40


def own_frames(frames: Sequence[GoLine]) -> list[GoLine]:
    """Without the runtime's functions at either end, which are on the stack of each goroutine that
    waits or allocates, and without the compiler's wrapper."""
    inner = list(dropwhile(lambda line: line.function.startswith(_RUNTIME), frames))
    while inner and (inner[-1].function.startswith(_RUNTIME) or WRAPPER.search(inner[-1].function)):
        inner.pop()
    return inner


def stack_lines(frames: Sequence[GoLine], width: int) -> Iterator[Text]:
    """A line for each function of the program in a stack."""
    shown = [(line, len(list(same))) for line, same in groupby(own_frames(frames) or frames)]
    for line, times in shown[:_MOST_FRAMES]:
        more = (" (inlined)" if line.is_inlined else "") + (f" × {times}" if times > 1 else "")
        yield from columns("    ", printable(line.function), f"{place(line)}{more}", width)
    left = sum(times for _, times in shown[_MOST_FRAMES:])
    if left:
        yield Text(f"    ... and {units.counted(left, 'caller')}")


def place(line: GoLine) -> str:
    """File and line."""
    return f"{printable(line.file)}:{line.line}" if line.file else "unknown file"


def line_in_words(line: GoLine) -> str:
    """A function with the name of its file and the line."""
    text = printable(line.function)
    return f"{text} {printable(PurePosixPath(line.file).name)}:{line.line}" if line.line else text


def columns(indent: str, left: str, right: str, width: int, style: str = "") -> Iterator[Text]:
    """Two columns. What doesn't fit beside the first one goes below it, and is cut in the
    middle."""
    line = Text(indent).append(shorten_middle(left, width - len(indent)), style)
    if not right:
        yield line
        return
    at = max(len(indent) + _FUNCTION_COLUMNS, line.cell_len + 2)
    if at + cell_len(right) <= width:
        yield line.append(" " * (at - line.cell_len)).append(right, "dim")
        return
    if line.cell_len + 2 + cell_len(right) <= width:
        yield line.append(" " * (width - line.cell_len - cell_len(right))).append(right, "dim")
        return
    yield line
    below = f"{indent}    "
    yield Text(below).append(shorten_middle(right, width - len(below)), "dim")


def rate_in_words(per_s: float) -> str:
    """Goroutines per second, or per hour where they are few."""
    digits = 1 if abs(per_s) < 1000 else 0
    if not per_s:
        return "+0/s"
    if not float(f"{per_s:.{digits}f}"):
        return f"{per_s * 3600:+,.1f}/h"
    return f"{per_s:+,.{digits}f}/s"
