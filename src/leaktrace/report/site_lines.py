"""The sites of a report for people: figures, evidence, stack.

    growing  12.0 MiB  49%  12,288 allocations  +512.0 KiB  oldest 4m10s  6f1d2a
      +1.9 MiB/min ±0.1 since the start: 12,100 allocations came and stayed …
      parse_header+0x2f   http/parser.c:118  [libparse.so.1]
      read_request+0x1a0  http/server.c:77   [httpd]
      ... 4 frames of libc

A report is read in one look: where some sites grow, the others are shown in short, and so are those
for which a screen has no room. `--full-stacks` shows all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from rich.text import Text

from leaktrace import units
from leaktrace.model import Measure, Report, Suppressed
from leaktrace.printable import printable
from leaktrace.report.contents import contents_lines
from leaktrace.report.descriptors import kinds_in_words
from leaktrace.report.figures import about, error_in_words, noun, short_noun, total_in_words
from leaktrace.report.folding import MOST_LINES, Shown, folded, summary, unrepeated
from leaktrace.report.frames import frame_lines
from leaktrace.report.holders import holder_lines
from leaktrace.report.idle import idle_in_words
from leaktrace.report.layout import flowed, wrapped
from leaktrace.report.lifetimes import freed_at_in_words, lifetimes_in_words
from leaktrace.report.names import shorten_middle
from leaktrace.report.pairs import unexplained_calls
from leaktrace.report.processes import change_in_words, shares_in_words
from leaktrace.report.regions import (
    other_regions_in_words,
    region_in_words,
    thread_stacks_in_words,
)
from leaktrace.report.site_ids import DIGITS, ShortIds
from leaktrace.report.styles import change_style
from leaktrace.report.verdicts import (
    STYLES,
    evidence_lines,
    rate_in_words,
    shows_words,
    word_of,
)
from leaktrace.site import Allocation, Site, StackEnd, Total
from leaktrace.verdict import LEAKING

LINES = 30  # of the sites of a section
_LINES_IN_SHORT = 2
_CHANGE = 5  # the column of the changes since the previous report

STACK_ENDS = {
    StackEnd.TRUNCATED: "stack truncated: it is deeper than leaktrace walks",
    StackEnd.GUESSED: "stack guessed: a frame was found by frame pointer only",
    StackEnd.GO: "called by Go on another stack, to which leaktrace knows no way",
    StackEnd.BROKEN: "stack broken: the next frame can't be found",
    StackEnd.LOST: "stack lost: it could not be stored",
}


def site_lines(report: Report, width: int, room: int = LINES) -> Iterator[Text]:
    """The lines of all sites that are shown, and of what the others hold. `room`: about how many
    there may be, unless the sites in short need more."""
    by_site: defaultdict[str, list[Allocation]] = defaultdict(list)
    for allocation in report.allocations or ():
        by_site[allocation.site_id].append(allocation)

    if not report.sites and not report.site_count:
        nothing = f"no outstanding {noun(report)}s{_older_than(report)}"
        if report.measure is Measure.FAULTS:
            nothing = "no new pages"
        yield from wrapped("  ", nothing, width)
        yield Text()
    elif report.sort not in ("size", "growth"):
        yield Text(f"  sorted by {printable(report.sort)}:")
        yield Text()
    ids = ShortIds.of_report(report)
    details = [list(site_details(site, report, width, ids)) for site in report.sites]
    others = [
        *_thread_stacks(report, width, ids),
        *_rest(report, width),
        *_suppressed(report, width),
    ]
    full = _number_in_full(report, details, room - len(others))
    rows = zip(report.sites, _site_figures(report, width, ids), details, strict=True)
    for number, (site, figures, lines) in enumerate(rows):
        yield from figures
        if number >= full:
            yield from _in_short(site, width, ids)
            continue
        yield from lines
        yield from _allocations(report, by_site.pop(site.id, []))
        yield Text()
    if full < len(report.sites):
        yield Text()
    yield from others
    if by_site:
        yield Text(f"  {noun(report)}s at sites that are not shown:")
        yield from _allocations(report, [one for several in by_site.values() for one in several])
        yield Text()
    if report.pair is not None:
        yield from unexplained_calls(report.pair, width)


def site_details(site: Site, report: Report, width: int, ids: ShortIds) -> Iterator[Text]:
    """What is known of a site beside its figures."""
    yield from evidence_lines(site, report, width)
    if site.idle is not None and report.idle is not None:
        yield from wrapped("    ", idle_in_words(site.idle, report.idle), width)
    yield from kernel_lines(site, width)
    if site.regions is not None:
        yield from wrapped("    ", region_in_words(site), width)
    if site.kinds:
        yield from wrapped("    ", kinds_in_words(site), width)
    if site.processes:
        yield from wrapped("    ", shares_in_words(site, report), width)
    if site.lifetimes is not None and site.lifetimes.total:
        yield from wrapped("    ", lifetimes_in_words(site, round(report.elapsed_s * 1e9)), width)
    for place in freed_at_in_words(site):
        yield from wrapped("    ", place, width)
    yield from holder_lines(site.holders, width, ids)
    for line in frame_lines(_shown(site, report), width - 4):
        yield Text("    ").append_text(line)
    if site.stack.end in STACK_ENDS:
        yield from wrapped("    (", f"{STACK_ENDS[site.stack.end]})", width, "yellow")
    if site.contents is not None:
        yield from contents_lines(site.contents, width, ids)


def _number_in_full(report: Report, details: Sequence[Sequence[Text]], room: int) -> int:
    """How many sites are shown in full. The others come after them. `room`: for how many lines."""
    if report.full_stacks or report.depth is not None or report.allocations is not None:
        return len(report.sites)
    some_leak = report.verdict is not None and report.verdict.kind in LEAKING
    room -= _LINES_IN_SHORT * len(report.sites) + 1
    # What was asked for is shown.
    least = max(
        (at for at, one in enumerate(report.sites, 1) if one.contents is not None), default=1
    )
    for number, (site, lines) in enumerate(zip(report.sites, details, strict=True)):
        is_suspicious = site.verdict is not None and site.verdict.is_suspicious
        room -= len(lines) + 2 - _LINES_IN_SHORT  # with its figures, and an empty line
        if number >= least and (room < 0 or (some_leak and not is_suspicious)):
            return number
    return len(report.sites)


def _in_short(site: Site, width: int, ids: ShortIds) -> Iterator[Text]:
    """The frame that says most, and what would be missing from the figures without it."""
    yield from kernel_lines(site, width)
    if site.regions is not None and site.regions.unread:
        yield from wrapped("    ", region_in_words(site), width)
    for line in frame_lines(summary(site.stack.frames), width - 4):
        yield Text("    ").append_text(line)
    yield from holder_lines(site.holders, width, ids, most=1)


def _thread_stacks(report: Report, width: int, ids: ShortIds) -> Iterator[Text]:
    """One line; with details, the call paths that create threads, too."""
    stacks = report.thread_stacks
    if stacks is None:
        return
    yield from wrapped("  thread stacks: ", thread_stacks_in_words(stacks), width)
    for site in stacks.sites if stacks.is_detailed else ():
        yield from wrapped("    ", f"{region_in_words(site)}  {ids.of(site.id)}", width)
        for line in frame_lines(list(unrepeated(site.stack.frames)), width - 6):
            yield Text("      ").append_text(line)
    yield Text()


def _shown(site: Site, report: Report) -> Sequence[Shown]:
    """The frames of a site that are shown."""
    frames = site.stack.frames
    if report.full_stacks:
        return list(unrepeated(frames))
    # Of the kernel all is own code, so that nothing but its length would decide.
    is_limited = report.depth is None and report.target.kind != "kernel"
    return folded(frames, MOST_LINES if is_limited else None)


def kernel_lines(site: Site, width: int) -> Iterator[Text]:
    """What only sites in the kernel have: cache, waste, context, uncertainty."""
    fields = []
    if site.cache is not None:
        fields.append(Text(shorten_middle(printable(site.cache), width // 2), "bold"))
    if site.requested_bytes is not None and site.requested_bytes < site.bytes:
        unused = site.bytes - site.requested_bytes
        share = units.share(unused, site.bytes)
        fields.append(Text(f"{units.size(unused)} ({share}) lost to rounding up"))
    if site.context is not None and site.context != "process":
        fields.append(Text(f"in {printable(site.context)} context"))
    if fields:
        yield from flowed([Text("    ").append_text(fields[0]), *fields[1:]], width)
    if site.unconfirmed is not None:
        yield from wrapped("    unconfirmed: ", site.unconfirmed, width, "yellow")


def _older_than(report: Report) -> str:
    if report.combined or not report.older_ms:
        return ""
    return f" older than {units.age(report.older_ms * 1_000_000)}"


def _site_figures(report: Report, width: int, ids: ShortIds) -> Iterator[list[Text]]:
    """The figures of each site, in columns that all sites share.

    Where the width is not enough, "allocations" is shortened, then the changes are left out, then
    the ids: a second line per site would be worse. (JSON has them.)
    """
    choices = [_site_rows(report, one) for one in (noun(report), short_noun(report))]
    choices.append([(*row[:_CHANGE], "", *row[_CHANGE + 1 :]) for row in choices[-1]])
    least = 2 + DIGITS
    with_ids = [rows for rows in choices if width - _row_cells(rows) >= least]
    fitting = [rows for rows in choices if width >= _row_cells(rows)]
    rows = (with_ids or fitting or choices)[0]
    room = width - _row_cells(rows)
    for site, row in zip(report.sites, rows, strict=True):
        verdict = "" if site.verdict is None else STYLES.get(site.verdict.kind, "green")
        styles = (verdict, "bold", "", "", "", change_style(site.growth_bytes or 0), "")
        figures = [Text(*styled) for styled in zip(row, styles, strict=True) if styled[0]]
        site_id = ids.of(site.id)
        if room >= 2 + len(site_id):
            figures.append(Text(site_id, "dim"))
        if room >= 0:
            yield [Text("  ") + Text("  ").join(figures)]
        else:  # a very narrow terminal
            yield list(flowed([*figures, Text(site_id, "dim")], width))


def _site_rows(report: Report, counted: str) -> list[tuple[str, ...]]:
    """The figures of all sites, padded to columns; "" in columns that are empty for all. `counted`
    is what is counted."""
    rows = [_site_row(site, report, counted) for site in report.sites]
    columns = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        (
            row[0].ljust(columns[0]),
            *(text.rjust(cells) for text, cells in zip(row[1:], columns[1:], strict=True)),
        )
        for row in rows
    ]


def _row_cells(rows: Sequence[tuple[str, ...]]) -> int:
    return sum(2 + len(text) for text in rows[0] if text) if rows else 0


def _site_row(site: Site, report: Report, counted: str) -> tuple[str, ...]:
    mark, growth = about(report), site.growth_bytes
    # How fast it grows says more than what has changed since the previous report.
    rate = "" if site.verdict is None else rate_in_words(site.verdict, report, with_error=False)
    # Of regions, the change is what was reserved, and the size what is in memory.
    change = "" if growth is None or site.is_region else mark + change_in_words(report, growth)
    return (
        word_of(site.verdict.kind) if site.verdict is not None and shows_words(report) else "",
        "" if report.is_counted else mark + units.size(site.held_bytes),
        "" if site.error is None else error_in_words(site.error),
        units.share(site.held_bytes, report.held_bytes),
        mark + units.counted(site.count, counted),
        rate or change,
        "" if site.oldest_ns is None else f"oldest {units.age(site.oldest_ns)}",
    )


def _suppressed(report: Report, width: int) -> Iterator[Text]:
    """What --suppressions leaves out."""
    if report.suppressed is None or not report.suppressed.site_count:
        return
    sites = units.counted(report.suppressed.site_count, "site")
    matched = sum(one.site_count > 0 for one in report.suppressed.patterns)
    patterns = units.counted(matched, "pattern")
    total = total_in_words(report, report.suppressed.held)
    yield from wrapped("  suppressed: ", f"{sites}, {total} ({patterns})", width)
    yield Text()


def _allocations(report: Report, allocations: list[Allocation]) -> Iterator[Text]:
    """Single allocations, oldest first."""
    for one in sorted(allocations, key=lambda allocation: -allocation.age_ns):
        size = f"  {units.number(one.size_bytes) + ' bytes':>16}"
        if report.is_counted:
            size = ""
        whose = "" if one.pid is None else f"  pid {one.pid}"
        what = f"{one.address:#x}" if report.descriptors is None else f"fd {one.address}"
        yield Text(f"      {what}{size}  {units.age(one.age_ns)} old{whose}")


def _rest(report: Report, width: int) -> Iterator[Text]:
    """What is outstanding and old enough, but not at the sites shown."""
    shown = sum(site.bytes for site in report.sites), sum(site.count for site in report.sites)
    stacks = report.thread_stacks
    if stacks is not None:
        shown = shown[0] + stacks.regions.reserved, shown[1] + stacks.regions.count
    hidden = report.suppressed or Suppressed(())
    rest = Total(
        report.outstanding.bytes - report.younger.bytes - hidden.held.bytes - shown[0],
        report.outstanding.count - report.younger.count - hidden.held.count - shown[1],
    )
    others = report.site_count - hidden.site_count - len(report.sites)
    others -= 0 if stacks is None else stacks.site_count
    if others > 0:
        label = "the other site" if others == 1 else f"the other {others:,} sites"
    elif (rest.bytes > 0 or rest.count > 0) and not report.is_estimate:
        label = "at unknown sites"
    else:
        return
    held, mapped = rest.bytes, report.other_regions
    if mapped is not None:
        held += mapped.held - mapped.reserved
    share = units.share(held, report.held_bytes)
    total = f"{label}: {total_in_words(report, rest)}{f' ({share})' if share else ''}"
    if mapped is not None:
        total += f"; {other_regions_in_words(report)}"
    yield from wrapped("  ", total, width)
    yield Text()
