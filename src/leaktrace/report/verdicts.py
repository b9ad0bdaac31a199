"""Verdicts in words: whether the process leaks, how fast, and what that rests on.

LEAK of 22,118 blocks (21.6 MiB) at parse_header parser.c:118
GROWING +1.9 MiB/min ±0.1 for 12m5s, at 2 sites; the first one explains 94% of it
TOO EARLY to say: needs about 10 s more
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from leaktrace import units
from leaktrace.model import Report
from leaktrace.printable import printable
from leaktrace.report.figures import about
from leaktrace.report.folding import summary
from leaktrace.report.function_names import shorten_symbol
from leaktrace.report.layout import flowed, wrapped
from leaktrace.report.names import shorten_middle
from leaktrace.site import Frame, Site, Stack
from leaktrace.verdict import LEAKING, Verdict, VerdictKind

STYLES = {
    VerdictKind.LEAK: "bold red",
    VerdictKind.GROWING: "bold red",
    VerdictKind.OVERDUE: "bold yellow",
    VerdictKind.FILLING: "yellow",
    VerdictKind.TOO_EARLY: "dim",
}
_WORDS = {VerdictKind.TOO_EARLY: "too early"}
_SINCE_START = 0.9  # of the time
_WHERE_CELLS = 40


def verdict_lines(report: Report, width: int) -> Iterator[Text]:
    """The verdict on all sites, on one line if it fits; nothing if there is none."""
    verdict = report.verdict
    if verdict is None:
        return
    match verdict.kind:
        case VerdictKind.LEAK:
            blocks = about(report) + units.counted(verdict.lost_count or 0, "block")
            size = about(report) + units.size(verdict.lost_bytes or 0)
            fields = [f"of {blocks} ({size}) {_where_lost(report, verdict)}"]
            if verdict.bytes_per_s is not None:
                fields.append(f"{rate_in_words(verdict, report)} {_since(verdict, report)}")
        case VerdictKind.GROWING:
            text = f"{rate_in_words(verdict, report)} {_since(verdict, report)}"
            fields = [text, _who_grows(report, verdict)]
        case VerdictKind.TOO_EARLY:
            needs = "" if report.final else _needs(verdict)
            fields = ["; ".join(filter(None, (f"to say: {verdict.reason}", needs)))]
        case VerdictKind.STEADY:
            fields = [f"for {units.elapsed(report.elapsed_s)}: {verdict.reason}"]
        case _:
            fields = [verdict.reason]
    word = word_of(verdict.kind).upper()
    style = STYLES.get(verdict.kind, "green")
    if len(fields) == 1:
        yield from wrapped(f"{word} ", fields[0], width, style)
        return
    first, *others = [Text(field) for field in fields if field]
    yield from flowed([Text(f"{word} ", style).append_text(first), *others], width)


def shows_words(report: Report) -> bool:
    """Whether each site says what its verdict is: not if it is too early for all of them."""
    kinds = {site.verdict.kind for site in report.sites if site.verdict is not None}
    return kinds != {VerdictKind.TOO_EARLY}


def word_of(kind: VerdictKind) -> str:
    """The verdict in a word or two."""
    return _WORDS.get(kind, kind.value)


def rate_in_words(verdict: Verdict, report: Report, *, with_error: bool = True) -> str:
    """Such as "+1.9 MiB/min ±0.1"; "" if it is not known."""
    if verdict.bytes_per_s is None:
        return ""
    unit = units.count_rate if report.is_counted else units.size_rate
    # One unit of time in all of a report, so that rates can be compared.
    on_all = report.verdict.bytes_per_s if report.verdict is not None else None
    rate = unit(verdict.bytes_per_s, verdict.error_bytes_per_s or 0.0, on_all)
    return about(report) + (rate if with_error else rate.partition(" ±")[0])


def evidence_lines(site: Site, report: Report, width: int) -> Iterator[Text]:
    """Why a site is said to grow, or is suspected to."""
    verdict = site.verdict
    if verdict is None or not verdict.is_suspicious:
        return
    rate = rate_in_words(verdict, report)
    text = f"{rate} {_since(verdict, report)}" if rate else ""
    yield from wrapped("    ", ": ".join(filter(None, (text, verdict.reason))), width)


def _since(verdict: Verdict, report: Report) -> str:
    if verdict.since_s is None:
        return ""
    if verdict.since_s >= _SINCE_START * report.elapsed_s:
        return "since the start"
    return f"for {units.age(round(verdict.since_s * 1e9))}"


def _who_grows(report: Report, verdict: Verdict) -> str:
    """Where it grows, or at how many sites, and which of them matters most."""
    where = _where(report)
    if verdict.reason == "one site grows":
        return f"at {where or 'one site'}"
    number = f"at {verdict.reason.replace(' grow', '', 1)}"
    first = report.sites[0].verdict if where else None
    if first is None or first.bytes_per_s is None:
        return number
    share = units.share(round(first.bytes_per_s), round(verdict.bytes_per_s or 0.0))
    return f"{number}; {share} of it at {where}" if share else f"{number}; the first at {where}"


def _where_lost(report: Report, verdict: Verdict) -> str:
    where = _where(report)
    if verdict.reason == "one site":
        return f"at {where or 'one site'}"
    return f"at {verdict.reason}" + (f", the first {where}" if where else "")


def _where(report: Report) -> str:
    """The frame that says most of the site that comes first, because it leaks."""
    first = report.sites[0] if report.sites and report.sort == "growth" else None
    if first is None or first.verdict is None or first.verdict.kind not in LEAKING:
        return ""
    return where_in_words(first.stack)


def where_in_words(stack: Stack) -> str:
    """The frame of a stack that says most, such as "parse_header parser.c:118"; "" if none has a
    name."""
    for frame in summary(stack.frames):
        if isinstance(frame, Frame) and frame.function is not None:
            name = shorten_symbol(printable(frame.function), _WHERE_CELLS)
            if frame.source is None:
                return name
            file = printable(frame.source.file).rpartition("/")[2]
            return f"{name} {shorten_middle(file, _WHERE_CELLS)}:{frame.source.line}"
    return ""


def _needs(verdict: Verdict) -> str:
    if not verdict.needs_s:
        return ""
    return f"needs about {units.elapsed(max(verdict.needs_s, 1.0))} more"
