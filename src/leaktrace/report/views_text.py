"""Views of a report for people: groups of sites as a table, stacks as a tree.

bytes in use by function: 24.3 MiB at 37 sites
shown: 12.0 MiB of 24.3 MiB (--focus, --ignore)

        own             total        sites  function
   12.0 MiB  49%     12.0 MiB   49%      1  copy_token [libparse.so.1]
        0 B   0%     24.3 MiB  100%     37  main [httpd]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.text import Text

from leaktrace import units
from leaktrace.analysis.quantities import Quantity
from leaktrace.analysis.views.groups import Selection, View
from leaktrace.analysis.views.places import Grouping, places_of
from leaktrace.analysis.views.rows import Held, Row
from leaktrace.analysis.views.trees import Direction, Folded, Line, Node, Tree
from leaktrace.printable import printable
from leaktrace.report.figures import about, quantity_in_words
from leaktrace.report.folding import folded
from leaktrace.report.frames import FUNCTION_STYLE, frame_lines
from leaktrace.report.layout import wrapped
from leaktrace.report.names import shorten_middle
from leaktrace.report.place_names import place_name, value_in_words
from leaktrace.report.site_ids import ShortIds
from leaktrace.report.verdicts import where_in_words
from leaktrace.site import Site

_WAYS = {Direction.TREE: "from the outermost callers down", Direction.CALLERS: "by caller"}
_ARROWS = {Direction.TREE: " > ", Direction.CALLERS: " < "}
_FIGURE = 12  # "1,023.9 GiB/h" is rare
_SHARE = 5
_LEAST_NAME = 20
_SITES_OF_SIZE = 3  # of each size, these are named


def view_lines(view: View, top: int, width: int) -> Iterator[Text]:
    """The first `top` groups, and what the others have; lines of at most `width` cells."""
    selection = view.selection
    what = f"{_title(selection)} by {view.grouping.value}"
    yield from _heading(selection, what, width)
    for note in view.notes:
        yield from wrapped("note: ", note, width, "yellow")
    yield Text()
    shown, rest = view.rows[:top], view.rows[top:]
    if view.grouping is Grouping.SITE:
        yield from _sites(shown, selection, width)
    elif shown and view.grouping is Grouping.SIZE:
        yield from _by_size(shown, selection, width)
        yield Text()
    elif shown:
        yield from _table(shown, view, width)
        yield Text()
    if rest:
        own = sum(row.own for row in rest)
        label = "the other one" if len(rest) == 1 else f"the other {len(rest):,}"
        has = "" if _has_one_column(view.grouping) else " themselves"
        figures = f"{_value(own, selection)} ({units.share(own, selection.shown) or '0%'}){has}"
        yield from wrapped("  ", f"{label}: {figures}", width)
        yield Text()


def tree_lines(tree: Tree, least_share: float, width: int) -> Iterator[Text]:
    """The nodes of at least this share (0 to 1). A node and its only one below are on one line."""
    selection = tree.selection
    yield from _heading(selection, f"{_title(selection)} {_WAYS[tree.direction]}", width)
    yield Text()
    lines = tree.lines(least_share)
    if not lines:
        yield from wrapped("  ", "nothing", width)
    indents: dict[int, int] = {}  # by depth: how many of the nodes above are on lines of their own
    at = 0
    while at < len(lines):
        first = lines[at]
        indent = 0 if first.depth == 0 else indents[first.depth - 1] + 1
        chain = [first]
        while _continues(lines, at):
            at += 1
            chain.append(lines[at])
        for line in chain:
            indents[line.depth] = indent
        yield from _chain(chain, tree, indent, width)
        at += 1
    yield Text()


def _continues(lines: Sequence[Line], at: int) -> bool:
    """Whether the next line is all that this one has."""
    if at + 1 == len(lines):
        return False
    following = lines[at + 1]
    is_below = following.depth == lines[at].depth + 1 and isinstance(following.node, Node)
    return is_below and following.is_only


def _heading(selection: Selection, what: str, width: int) -> Iterator[Text]:
    name = selection.report.section
    sites = units.counted(selection.total_sites, "site")
    total = _value(selection.total, selection)
    start = f"{printable(name)}: " if name and not what.startswith(name) else ""
    yield from wrapped("", f"{start}{what}: {total} at {sites}", width)
    if selection.filtered or len(selection.sites) != selection.total_sites:
        shown = _value(selection.shown, selection)
        sites = f"{len(selection.sites):,} of {selection.total_sites:,} sites"
        options = "--site" if selection.by_id else "--focus, --ignore"
        text = f"{shown} of {total} at {sites} ({options})"
        if selection.by_id and not selection.sites:
            text = "nothing: the site is not here, or left out by --focus or --ignore"
        elif not selection.sites and selection.total_sites:
            text = "no site matches: names of functions, source files and modules are searched"
        yield from wrapped("shown: ", text, width, "yellow")
    if selection.elsewhere:
        parts = ", ".join(
            f"{one.what} {_value(one.value, selection)}" for one in selection.elsewhere
        )
        total = _value(selection.everything, selection)
        yield from wrapped("not at these sites: ", f"{parts}; with it {total}", width)


def _value(value: int, selection: Selection) -> str:
    report = selection.report
    return about(report) + value_in_words(value, selection.quantity, is_counted=report.is_counted)


def _title(selection: Selection) -> str:
    if selection.quantity is Quantity.GROWTH and selection.report.is_counted:
        return "growth per hour"
    return quantity_in_words(selection.quantity, selection.report)


def _has_one_column(grouping: Grouping) -> bool:
    """Whether what a group has itself is all that it has."""
    return grouping in (Grouping.PROCESS, Grouping.SITE, Grouping.SIZE)


def _table(rows: Sequence[Row], view: View, width: int) -> Iterator[Text]:
    selection, one_column = view.selection, _has_one_column(view.grouping)
    column = _FIGURE + _SHARE
    head = "" if one_column else "own".rjust(_FIGURE) + " " * _SHARE
    head += "total".rjust(_FIGURE) + " " * _SHARE + "sites".rjust(8) + "  " + view.grouping.value
    yield Text(head[:width], "dim")
    room = max(width - column * (1 if one_column else 2) - 10, _LEAST_NAME)
    for row in rows:
        line = Text()
        for value in (row.total,) if one_column else (row.own, row.total):
            share = units.share(value, selection.shown)
            line.append(f"{_value(value, selection):>{_FIGURE}}{share:>{_SHARE}}")
        line.append(f"{row.site_count:>8,}  ")
        line.append(place_name(row.place, view.grouping, room), FUNCTION_STYLE)
        line.truncate(width)
        yield line


def _by_size(rows: Sequence[Row], selection: Selection, width: int) -> Iterator[Text]:
    """Bytes and blocks of each size, and below it the sites that have most of them."""
    whole = Held(
        sum(site.count for site in selection.sites), sum(site.bytes for site in selection.sites)
    )
    columns = "" if selection.report.is_counted else "bytes".rjust(_FIGURE) + " " * _SHARE
    columns += "blocks".rjust(_FIGURE) + " " * _SHARE + "sites".rjust(8) + "  size"
    yield Text(columns[:width], "dim")
    ids = ShortIds.of_report(selection.report)
    for row in rows:
        assert row.held is not None
        line = Text(_held(row.held, whole, selection), "bold").append(f"{row.site_count:>8,}  ")
        room = max(width - line.cell_len, _LEAST_NAME)
        line.append(place_name(row.place, Grouping.SIZE, room), FUNCTION_STYLE)
        line.truncate(width)
        yield line
        for one in row.shares[:_SITES_OF_SIZE]:
            line = Text(_held(one.held, whole, selection))
            line.append(f"  {ids.of(one.site.id)}    ", "dim")
            room = max(width - line.cell_len, _LEAST_NAME)
            line.append(_site_name(one.site, room))
            line.truncate(width)
            yield line
        others = row.site_count - _SITES_OF_SIZE
        if others > 0:
            more = f"... {units.counted(others, 'site')} more"
            yield Text(" " * _cells_of_held(selection) + f"{'':10}  {more}", "dim")


def _site_name(site: Site, cells: int) -> str:
    """The function of a site that says most; without names, where its first frame is."""
    first = next(iter(places_of(site, Grouping.FUNCTION)))
    where = where_in_words(site.stack) or place_name(first, Grouping.FUNCTION, cells)
    return shorten_middle(where, cells)


def _held(held: Held, whole: Held, selection: Selection) -> str:
    """Bytes and blocks with their shares; "?" for what is not known."""
    mark, text = about(selection.report), ""
    if not selection.report.is_counted:
        known = held.bytes is not None
        size = f"{mark}{units.size(held.bytes or 0)}" if known else "?"
        share = units.share(held.bytes or 0, whole.bytes or 0) if known else ""
        text = f"{size:>{_FIGURE}}{share:>{_SHARE}}"
    blocks = f"{mark}{held.blocks:,}"
    return text + f"{blocks:>{_FIGURE}}{units.share(held.blocks, whole.blocks):>{_SHARE}}"


def _cells_of_held(selection: Selection) -> int:
    return (_FIGURE + _SHARE) * (1 if selection.report.is_counted else 2)


def _sites(rows: Sequence[Row], selection: Selection, width: int) -> Iterator[Text]:
    ids = ShortIds.of_report(selection.report)
    for row in rows:
        assert row.site is not None
        share = units.share(row.own, selection.shown)
        line = Text(f"{_value(row.own, selection):>{_FIGURE}}{share:>{_SHARE}}", "bold")
        yield line.append(f"  {ids.of(row.site.id)}", "dim")
        for frame in frame_lines(folded(row.site.stack.frames), width - 4):
            yield Text("    ").append_text(frame)
        yield Text()


def _chain(chain: Sequence[Line], tree: Tree, indent: int, width: int) -> Iterator[Text]:
    """Nodes on one line; on several where they don't fit."""
    selection = tree.selection
    node = chain[0].node
    share = units.share(node.value, selection.shown)
    figures = f"{_value(node.value, selection):>{_FIGURE}}{share:>{_SHARE}}  "
    before = len(figures) + min(2 * indent, width // 3)
    room = max(width - before, _LEAST_NAME)
    start = Text(figures.ljust(before))
    if isinstance(node, Folded):
        kind = "callee" if tree.direction is Direction.TREE else "caller"
        start.append(f"... {units.counted(node.count, kind)} more", "dim")
        start.truncate(width)
        yield start
        return
    arrow = _ARROWS[tree.direction]
    line = Text()
    for one in chain:
        assert isinstance(one.node, Node)
        name = place_name(one.node.place, Grouping.FUNCTION, room - len(arrow))
        if line.cell_len and line.cell_len + len(arrow) + cell_len(name) > room:
            yield start.append_text(line)
            start, line = Text(" " * before), Text(arrow.lstrip())
        elif line.cell_len:
            line.append(arrow, "dim")
        line.append(name, FUNCTION_STYLE)
    yield start.append_text(line)
