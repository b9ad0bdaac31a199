"""Parts of an HTML page that can be read without scripts. All text in them is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from leaktrace import units
from leaktrace.model import Loss, Remark
from leaktrace.printable import printable
from leaktrace.report.folding import summary
from leaktrace.report.runtimes import is_own
from leaktrace.site import Frame, Site
from leaktrace.verdict import LEAKING, SUSPICIOUS, VerdictKind

STATIC_SITES = 50  # in a table that needs no script


def verdict(css_class: str, word: str, text: str) -> str:
    """The box at the top."""
    strong = f"<strong>{escape(word)}</strong> " if word else ""
    return f'<p class="verdict {css_class}">{strong}<span>{escape(text)}</span></p>'


def class_of(kind: VerdictKind) -> str:
    """The style of a verdict."""
    if kind in LEAKING:
        return "bad"
    if kind in SUSPICIOUS:
        return "warn"
    return "plain" if kind is VerdictKind.TOO_EARLY else "good"


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Names with their values."""
    return "".join(
        f"<div><dt>{escape(printable(name))}</dt><dd>{escape(printable(value))}</dd></div>"
        for name, value in rows
    )


def items(lines: Iterable[str]) -> str:
    """A list; "" if it is empty."""
    found = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{found}</ul>" if found else ""


def missing_in_words(losses: Iterable[Loss], remarks: Iterable[Remark]) -> Iterator[str]:
    """What is missing from the figures, and what makes them uncertain."""
    counted = [loss for loss in losses if loss.count]
    if not any(loss.is_lost for loss in counted):
        yield "Lost: nothing."
    for loss in counted:
        size = f" ({units.size(loss.bytes)})" if loss.bytes is not None else ""
        what = "Lost" if loss.is_lost else "Uncertain"
        yield printable(f"{what}: {units.loss_in_words(loss)}{size}{_hint(loss.hint)}")
    for remark in remarks:
        what = "Incomplete: " if remark.kind.is_of_completeness else ""
        yield printable(f"{what}{remark.text}{_hint(remark.hint)}")


def _hint(hint: str) -> str:
    return f". {hint[:1].upper()}{hint[1:]}" if hint else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of sites."""
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>" for cells in rows
    )
    return (
        f'<div class="scroll"><table class="sites static"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def place(frame: Frame | None) -> str:
    """Function and line of a frame."""
    if frame is None:
        return "stack unknown"
    where = "" if frame.source is None else f"  {frame.source.file}:{frame.source.line}"
    return printable(f"{frame.function or f'{frame.address:#x}'}{where}")


def where_of(site: Site) -> Frame | None:
    """The frame that says most; None if the stack has none."""
    frames = site.stack.frames
    own = (frame for frame in frames if frame.function is not None and is_own(frame))
    first = next(own, None)
    if first is not None:  # what `summary` would say, but sooner
        return first
    return next((one for one in summary(frames) if isinstance(one, Frame)), None)
