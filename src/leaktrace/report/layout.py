"""Lines of a report for people: wrapped, flowed, painted."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from leaktrace.printable import printable
from leaktrace.report.names import wrap


def painted(output: TextIO, lines: Sequence[Text]) -> str:
    """Lines as text: with colour on a terminal only."""
    if not output.isatty():
        return "".join(f"{line.plain}\n" for line in lines)
    # rich only turns styles into codes here (honouring NO_COLOR and TERM). It must not write
    # itself, because it exits on a broken pipe.
    console = Console(file=io.StringIO(), force_terminal=True, highlight=False)
    with console.capture() as capture:
        console.print(Text("\n").join(lines), soft_wrap=True)
    return capture.get()


def advised(label: str, text: str, hint: str, width: int, style: str) -> Iterator[Text]:
    """What happened, and below it what to do."""
    yield from wrapped(label, text, width, style)
    if hint:
        yield from wrapped(" " * len(label), hint, width)


def wrapped(label: str, text: str, width: int, label_style: str = "") -> Iterator[Text]:
    """`text` after `label`; further lines are indented below it."""
    indent = " " * cell_len(label)
    for index, line in enumerate(wrap(printable(text), width - len(indent))):
        start = Text().append(label, label_style) if index == 0 else Text(indent)
        yield start.append(line)


def flowed(fields: Sequence[Text], width: int) -> Iterator[Text]:
    """Fields side by side, three spaces apart; a field that doesn't fit starts a new line."""
    line = Text()
    for field in fields:
        if line.cell_len and line.cell_len + 3 + field.cell_len > width:
            yield line
            line = Text("  ")
        elif line.cell_len:
            line.append("   ")
        field.truncate(width - line.cell_len)
        line.append_text(field)
    if line.cell_len:
        yield line
