"""A stack as lines of text: name, source line and module of each frame, in a given width.

    parse_header+0x2f                 http/parser.c:118     [libparse.so.1]
    skip_blanks (inlined)             http/scan.h:12        [libparse.so.1]
    0x7f3a52c0a1b2                    [libz.so.1+0xa1b2] (no symbols)

What tells where to look (file:line, module) is never cut away for the sake of a long name: first
leading folders go, then what a C++ name can do without; then the location moves to a line of its
own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from rich.text import Text

from leaktrace.model import Frame
from leaktrace.report.names import (
    module_name,
    printable,
    shorten_folders,
    shorten_middle,
    shorten_path,
    shorten_symbol,
)

FUNCTION_STYLE = "cyan"
PLACE_STYLE = "dim"

_GAP = "  "
_NAME_COLUMN = 32  # columns line up for parts that are no wider than these
_SOURCE_COLUMN = 24
_NAME_ROOM = 48  # a name is not squeezed below this: its location gets a line of its own
_LONGEST_NAME = 100
_SOURCE_ROOM = 16  # nor a source below this for the sake of a name
_PLACE_INDENT = "    "


@dataclass(frozen=True)
class _Parts:
    name: str  # function or address, printable
    suffix: str  # "+0x2f", " (inlined)": never shortened
    source: str  # "file:line" or ""
    module: str  # "[libparse.so.1]" or ""
    reason: str  # "(no symbols)" or ""

    def name_cells(self) -> int:
        return cell_len(self.name) + cell_len(self.suffix)


def frame_lines(frames: Sequence[Frame], width: int) -> Iterator[Text]:
    """The lines of `frames`, leaf first, each at most `width` cells wide."""
    parts = [_parts(frame) for frame in frames]
    columns = (
        _column((part.name_cells() for part in parts), _NAME_COLUMN),
        _column((cell_len(part.source) for part in parts), _SOURCE_COLUMN),
    )
    for part in parts:
        yield from _lines(part, width, columns)


def _column(widths: Iterator[int], limit: int) -> int:
    """As wide as the widest part that does not exceed the limit."""
    return max((width for width in widths if width <= limit), default=0)


def _parts(frame: Frame) -> _Parts:
    if frame.function is None:
        name, suffix = f"{frame.address:#x}", ""
        reason = f"({printable(frame.unknown or 'no name is known')})"
    else:
        name, reason = _bounded(frame.function), ""
        suffix = " (inlined)" if frame.inlined else f"+{frame.offset:#x}"
    source = f"{printable(frame.source.file)}:{frame.source.line}" if frame.source else ""
    return _Parts(name, suffix, source, _module(frame), reason)


def _bounded(function: str) -> str:
    """Bound the length of a name whose characters take no cells."""
    name = printable(function)
    return name if cell_len(name) * 2 >= len(name) else shorten_middle(name, _LONGEST_NAME)


def _module(frame: Frame) -> str:
    if frame.module is None:
        return ""
    name = module_name(frame.module)
    if frame.function is None and frame.module_offset is not None:
        return f"[{name}+{frame.module_offset:#x}]"  # what addr2line needs
    return f"[{name}]"


def _lines(part: _Parts, width: int, columns: tuple[int, int]) -> Iterator[Text]:
    """One line, two where one can't hold all that has to be said."""
    shorter = part
    line = _joined(part, columns)
    if line.cell_len > width:
        line = _joined(part, (0, 0))
    if line.cell_len > width and part.source:
        room = cell_len(part.source) - (line.cell_len - width)
        shorter = replace(part, source=shorten_folders(part.source, max(room, _SOURCE_ROOM)))
        line = _joined(shorter, (0, 0))
    if line.cell_len > width:
        room = cell_len(part.name) - (line.cell_len - width)
        if room < cell_len(shorten_symbol(part.name, _NAME_ROOM)):
            yield from _two_lines(part, width)
            return
        line = _joined(replace(shorter, name=shorten_symbol(part.name, room)), (0, 0))
    yield line


def _joined(part: _Parts, columns: tuple[int, int]) -> Text:
    """All parts on one line, names and sources padded to `columns`."""
    line = Text().append(part.name, FUNCTION_STYLE).append(part.suffix)
    if part.source or part.module or part.reason:
        line.append(" " * (columns[0] - line.cell_len))
    source_padding = " " * (columns[1] - cell_len(part.source)) if part.module else ""
    for text in (part.source + source_padding, part.module, part.reason):
        if text:
            line.append(_GAP + text, PLACE_STYLE)
    return line


def _two_lines(part: _Parts, width: int) -> Iterator[Text]:
    """The name, and under it the location."""
    name = shorten_symbol(part.name, width - len(part.suffix))
    yield Text().append(name, FUNCTION_STYLE).append(part.suffix)
    room = width - len(_PLACE_INDENT)
    module = part.module
    if module:
        share = room * 3 // 5 if part.source or part.reason else room
        module = f"[{shorten_middle(module[1:-1], share - 2)}]"
        room -= cell_len(module) + len(_GAP)
    source = shorten_path(part.source, room) if part.source else ""
    reason = shorten_middle(part.reason, room) if part.reason else ""
    place = _GAP.join(text for text in (source, module, reason) if text)
    yield Text(_PLACE_INDENT + place, PLACE_STYLE)
