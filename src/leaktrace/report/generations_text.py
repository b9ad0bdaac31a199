"""What was allocated between two moments and is still there at a third, for people.

leaktrace diff  httpd
  from   run.rec@1: report 1, 10.0 s after tracing began
  to     run.rec@5: …
  still  run.rec@last: …
STILL THERE 12.0 MiB to 14.5 MiB in 12,288 to 14,000 blocks, at 3 sites

  12.0 MiB           12,288 blocks          of 13.1 MiB  6f1d2a
    parse_header+0x2f   http/parser.c:118  [libparse.so.1]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rich.text import Text

from leaktrace import units
from leaktrace.analysis.comparing.generations import Generation, Generations
from leaktrace.model import Report
from leaktrace.printable import printable
from leaktrace.report.diff_notes import what_is_missing
from leaktrace.report.diff_text import moment, target_in_words
from leaktrace.report.folding import folded
from leaktrace.report.frames import frame_lines
from leaktrace.report.layout import flowed, wrapped
from leaktrace.report.site_ids import ShortIds
from leaktrace.report.site_lines import kernel_lines
from leaktrace.site import Total


def generation_lines(
    found: Generations, names: tuple[str, str, str], top: int, width: int
) -> Iterator[Text]:
    """The first `top` sites; lines of at most `width` cells. `names`: of the three reports."""
    title = Text().append("leaktrace", "bold")
    title.append(f" diff  {target_in_words(found.now, width)}", "bold cyan")
    yield from flowed([title], width)
    reports = (found.begin, found.end, found.now)
    for label, name, report in zip(("from", "to", "still"), names, reports, strict=True):
        yield from wrapped(f"  {label:<5}  ", f"{name}: {moment(report)}", width)
    sites = units.counted(len(found.sites), "site")
    total = _between(found.at_least, found.at_most, found.now)
    yield from wrapped("STILL THERE ", f"{total}, at {sites}", width, "bold")
    for note in generation_notes(found):
        yield from wrapped("note: ", note, width, "yellow")
    yield Text()
    ids = ShortIds(row.site.id for row in found.sites)
    for row in found.sites[:top]:
        yield from _site(row, found.now, width, ids)
    rest = found.sites[top:]
    if rest:
        most = Total(sum(one.at_most.bytes for one in rest), sum(one.at_most.count for one in rest))
        others = units.counted(len(rest), "site")
        yield from wrapped("  ", f"{others} more: at most {_total(most, found.now)}", width)
        yield Text()


def generation_notes(found: Generations) -> Iterator[str]:
    """What the reader must know."""
    if any(not one.is_exact for one in found.sites):
        yield (
            "two figures are bounds: of a site it is recorded how much was freed, not which "
            "blocks were"
        )
    if found.unlisted:
        yield f"a report doesn't list {units.counted(found.unlisted, 'site')}"
    yield from what_is_missing(found.now)  # losses are counted since tracing began
    for section in found.sections:
        yield printable(f"not looked at: {section}")
    if found.now.is_estimate:
        yield f"all figures are estimates: {units.sample_in_words(found.now)}"


def _site(row: Generation, report: Report, width: int, ids: ShortIds) -> Iterator[Text]:
    fields = [Text("  ").append(_between(row.at_least, row.at_most, report), "bold")]
    if row.allocated is not None:
        fields.append(Text(f"of {_total(row.allocated, report)} allocated then"))
    fields.append(Text(ids.of(row.site.id), "dim"))
    yield from flowed(fields, width)
    yield from kernel_lines(replace(row.site, requested_bytes=None), width)
    for frame in frame_lines(folded(row.site.stack.frames), width - 4):
        yield Text("    ").append_text(frame)
    yield Text()


def _total(total: Total, report: Report) -> str:
    blocks = units.counted(total.count, "object" if report.is_counted else "block")
    return blocks if report.is_counted else f"{units.size(total.bytes)} in {blocks}"


def _between(least: Total, most: Total, report: Report) -> str:
    if least == most:
        return _total(least, report)
    if most.count and not least.count:
        return f"at most {_total(most, report)}"
    return f"{_total(least, report)} to {_total(most, report)}"
