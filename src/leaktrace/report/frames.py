"""A stack as lines of text: name, source line and module of each frame, in columns.

    parse_header+0x2f              .../http/parser.c:118  [libparse.so.1]
    skip_blanks (inlined)          .../http/scan.h:12     [libparse.so.1]
    read_request+0x1a0             .../http/server.c:77   [httpd]
    ... 125 more of the same
    [libz.so.1+0xa1b2]             (no symbols)
    ... 4 frames of libc

Which frames are shown is decided elsewhere (report/folding.py). On a terminal, those that are the
program's own stand out.

All frames of a stack share one layout. Where the width is not enough, leading directories of the
source go first (two parts of the path stay while names have room), then the dispensable parts of a
C++ name. A name that would lose more gets a separate line, with source and module below it in
their columns: they say where to look, so a long name doesn't displace them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from leaktrace.printable import printable
from leaktrace.report.folding import FoldedRun, Repeats, Shown
from leaktrace.report.function_names import least_cells, shorten_symbol
from leaktrace.report.names import (
    module_name,
    shorten_folders,
    shorten_middle,
    shorten_path,
)
from leaktrace.report.runtimes import is_own
from leaktrace.site import Frame

FUNCTION_STYLE = "cyan"
OWN_STYLE = "bold cyan"  # of a frame that is the program's own
PLACE_STYLE = "dim"

_GAP = "  "
_MODULE_ROOM = 24  # "[libstdc++.so.6.0.30]" fits; longer names are cut in the middle
_NAME_ROOM = 64  # a name column wider than this must leave the sources as much
_LONGEST_NAME = 100
_PLACE_INDENT = 4

_NAMES_SHOWN = 3  # of those to which folded frames belong


@dataclass(frozen=True)
class _Row:
    """The texts of a frame. Only frames with a name determine the width of the columns."""

    name: str  # function, "[module+0x…]" or address, printable
    suffix: str  # "+0x2f", " (inlined)": never shortened
    source: str  # "file:line" or ""
    module: str  # "[libparse.so.1]" or ""
    reason: str  # "(no symbols)": why there is no name; "" if there is one
    style: str = FUNCTION_STYLE

    @property
    def name_cells(self) -> int:
        return cell_len(self.name) + len(self.suffix)


@dataclass(frozen=True)
class _Columns:
    """Widths in cells; 0 for a missing column."""

    name: int
    source: int
    module: int


def frame_lines(shown: Sequence[Shown], width: int) -> Iterator[Text]:
    """The lines of the frames that are shown, leaf first, each at most `width` cells wide."""
    rows = [_row(item) if isinstance(item, Frame) else _remark(item) for item in shown]
    columns = _columns([row for row in rows if isinstance(row, _Row)], width)
    for row in rows:
        if isinstance(row, str):
            yield Text(shorten_middle(row, width), PLACE_STYLE)
        elif row.reason:
            yield _unnamed_line(row, width, columns)
        else:
            yield from _lines(row, width, columns)


def _remark(item: Repeats | FoldedRun) -> str:
    """What is said in place of frames."""
    if isinstance(item, Repeats):
        if item.length == 1:
            return f"... {item.times:,} more of the same"
        return f"... the same {item.length} frames {item.times:,} more times"
    named = list(item.whose[:_NAMES_SHOWN])
    if len(item.whose) > _NAMES_SHOWN:
        named.append("others")
    of = " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))
    return f"... {item.count:,} frames of {printable(of)}"


# -- rows --


def _row(frame: Frame) -> _Row:
    source = f"{printable(frame.source.file)}:{frame.source.line}" if frame.source else ""
    module = "" if frame.module is None else module_name(frame.module)
    bracketed = f"[{module}]" if frame.module is not None else ""
    if frame.function is not None:
        suffix = " (inlined)" if frame.inlined else f"+{frame.offset:#x}"
        style = OWN_STYLE if is_own(frame) else FUNCTION_STYLE
        return _Row(_bounded(frame.function), suffix, source, bracketed, "", style)
    reason = f"({printable(frame.unknown or 'no name is known')})"
    if module and frame.module_offset is not None:  # what addr2line needs
        return _Row(module, f"+{frame.module_offset:#x}", source, "", reason)
    return _Row(f"{frame.address:#x}", "", source, bracketed, reason)


def _bounded(function: str) -> str:
    """The name, shortened if most of its characters take no cells."""
    name = printable(function)
    return name if cell_len(name) * 2 >= len(name) else shorten_middle(name, _LONGEST_NAME)


# -- columns --


def _columns(rows: Sequence[_Row], width: int) -> _Columns:
    named = [row for row in rows if not row.reason]
    module = min(
        _widest(row.module for row in named), max(min(_MODULE_ROOM, width // 3), width // 4)
    )
    room = width - (module + len(_GAP) if module else 0)
    names = max((row.name_cells for row in named), default=0)
    sources = [row.source for row in rows if row.source]
    if not sources:
        return _Columns(min(names, room), 0, module)
    room -= len(_GAP)
    names = min(names, max(_NAME_ROOM, room // 2), room)
    least_for_names = min(names, room // 2)
    source = room - least_for_names
    for parts in (2, 1):
        needed = _widest(_last_parts(one, parts) for one in sources)
        if needed <= room - least_for_names:
            source = max(needed, room - names)
            break
    source = min(source, _widest(shorten_folders(one, source) for one in sources))
    return _Columns(min(names, room - source), source, module)


def _widest(texts: Iterable[str]) -> int:
    return max(map(cell_len, texts), default=0)


def _last_parts(source: str, count: int) -> str:
    """`source` with the last `count` parts of its path, as `shorten_folders` writes it."""
    parts = source.split("/")
    shorter = f".../{'/'.join(parts[-count:])}"
    return shorter if len(parts) > count and cell_len(shorter) < cell_len(source) else source


def _lines(row: _Row, width: int, columns: _Columns) -> Iterator[Text]:
    """One line, or two if a name would lose too much on one."""
    source = shorten_folders(row.source, columns.source) if row.source else ""
    room = columns.name
    if not row.source and columns.source:  # the name may use that column, too
        room += len(_GAP) + columns.source
    if not row.source and not row.module:
        room = width
    room -= len(row.suffix)
    fits = cell_len(row.name) <= room or least_cells(row.name) <= room
    if fits and cell_len(source) <= columns.source:
        line = _name(row, room)
        if place := _place(source, row.module, columns, line.cell_len):
            line.append(place, PLACE_STYLE)
        yield line
        return
    # A short source leaves room for a long name, and the other way round.
    both = columns.name + columns.source
    if least_cells(row.name) + len(row.suffix) + cell_len(source) <= both:
        line = _name(row, both - cell_len(source) - len(row.suffix))
        before = max(line.cell_len, min(columns.name, both - cell_len(source)))
        yield line.append(_place(source, row.module, columns, line.cell_len, before), PLACE_STYLE)
        return
    yield _name(row, width - len(row.suffix))
    before = columns.name
    if cell_len(source) > columns.source:  # to the left of its column, as far as needed
        most = columns.name + columns.source - _PLACE_INDENT
        source = shorten_path(source, max(most, columns.source))
        before -= cell_len(source) - columns.source
    place = _place(source, row.module, columns, 0, max(0, before))
    if place:
        yield Text(place, PLACE_STYLE)


def _name(row: _Row, room: int) -> Text:
    return Text().append(shorten_symbol(row.name, room), row.style).append(row.suffix)


def _place(
    source: str, module: str, columns: _Columns, taken: int, before: int | None = None
) -> str:
    """Source and module in their columns, after a name that takes `taken` cells."""
    place = " " * ((columns.name if before is None else before) - taken)
    if source:
        place += _GAP + source
    if module:
        module = f"[{shorten_middle(module[1:-1], columns.module - 2)}]"
        end = columns.name + (len(_GAP) + columns.source if columns.source else 0)
        place += " " * (end - taken - cell_len(place)) + _GAP + module
    return place if place.strip() else ""


def _unnamed_line(row: _Row, width: int, columns: _Columns) -> Text:
    """Where the frame is and why it has no name: on one line, in columns if they fit."""
    place = _GAP.join(filter(None, (shorten_path(row.source, width // 3), row.module)))
    brackets = 2 if row.suffix else 0
    room = width - brackets - len(row.suffix) - cell_len(_GAP + place + row.reason)
    name = shorten_middle(row.name, max(room, width // 4))
    if brackets:
        name = f"[{name}{row.suffix}]"
    line = Text(name)
    rest = f"{place}{_GAP if place else ''}{row.reason}"
    padding = max(0, columns.name - line.cell_len)
    if columns.name + cell_len(_GAP + rest) > width:
        padding = 0
    room = width - line.cell_len - padding - len(_GAP)
    return line.append(" " * padding + _GAP + shorten_middle(rest, room), PLACE_STYLE)
