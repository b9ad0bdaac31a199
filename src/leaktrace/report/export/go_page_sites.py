"""What an HTML page says of the sites of a Go program: of its heap, and of its goroutines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from leaktrace import units
from leaktrace.analysis.go_library import innermost_own
from leaktrace.analysis.go_sites import GoSites
from leaktrace.go_report import GoroutineGroup, GoVerdict
from leaktrace.model import Report
from leaktrace.printable import printable
from leaktrace.report.export.page_parts import where_of
from leaktrace.report.figures import about
from leaktrace.report.go_rows import line_in_words, rate_in_words
from leaktrace.report.go_text import TOO_EARLY, started_as, state_in_words
from leaktrace.report.site_lines import STACK_ENDS
from leaktrace.site import Frame, Site

_MOST_SIZES = 5
_MOST_CREATORS = 5
_CLASSES = {
    GoVerdict.LEAKING: "bad",
    GoVerdict.TURNOVER: "good",
    GoVerdict.STEADY: "good",
    GoVerdict.TOO_EARLY: "plain",
}
_GRAVEST_FIRST = list(_CLASSES)


def goroutine_word(verdict: GoVerdict) -> str:
    """A verdict on goroutines in a word or two."""
    return TOO_EARLY if verdict is GoVerdict.TOO_EARLY else verdict.value


def goroutine_class(verdict: GoVerdict) -> str:
    """Its style."""
    return _CLASSES[verdict]


def own_frame(site: Site) -> Frame | None:
    """The innermost function of the program; where none is known, the one that says most."""
    frames = site.stack.frames
    lines = [(one.function or "", one.source.file if one.source else "") for one in frames]
    at = innermost_own(lines)
    return where_of(site) if at is None or frames[at].function is None else frames[at]


class HeapSites:
    """Sites of the profile of the heap. See `SiteWords`."""

    kinds: tuple[tuple[str, str], ...] = ()
    allocated_since = "the profile is on"
    is_age_at_least = False

    def __init__(self, sites: GoSites, part: Report) -> None:
        self._figures = sites.figures_by_id
        self._about = about(part)

    def kind(self, site: Site) -> int | None:
        return None

    def where(self, site: Site) -> Frame | None:
        return own_frame(site)

    def oldest_ns(self, site: Site) -> int | None:
        return None

    def rate(self, site: Site) -> float:
        figures = self._figures.get(site.id)
        change = None if figures is None else figures.change
        return 0.0 if change is None else change.bytes_per_s

    def rate_text(self, site: Site) -> str:
        figures = self._figures.get(site.id)
        if figures is None or figures.change is None:
            return ""
        return f"{self._about}{units.size_change(round(figures.change.bytes_per_s))}/s"

    def evidence(self, site: Site) -> str:
        return ""

    def details(self, site: Site) -> Iterator[str]:
        sizes = sorted(site.object_sizes, key=lambda one: -one.in_use_bytes)
        used = [one for one in sizes if one.in_use_count]
        for one in used[:_MOST_SIZES]:
            count = units.counted(one.in_use_count, "object")
            yield f"in use: {self._about}{count} of {units.size(one.size_bytes)}"
        if len(used) > _MOST_SIZES:
            yield f"and objects of {units.counted(len(used) - _MOST_SIZES, 'other size')}"


class GoroutineSites:
    """Goroutines by stack and by what they wait for. See `SiteWords`."""

    kinds = tuple((goroutine_word(one), goroutine_class(one)) for one in _GRAVEST_FIRST)
    allocated_since = ""  # nothing is allocated
    is_age_at_least = True

    def __init__(self, sites: GoSites) -> None:
        self._groups = sites.groups_by_key

    def kind(self, site: Site) -> int | None:
        return min(
            (_GRAVEST_FIRST.index(one.growth.verdict) for one in self._of(site)), default=None
        )

    def where(self, site: Site) -> Frame | None:
        return own_frame(site)

    def oldest_ns(self, site: Site) -> int | None:
        return max(
            (
                one.growth.longest_wait_ns
                for one in self._of(site)
                if one.growth.longest_wait_ns is not None
            ),
            default=None,
        )

    def rate(self, site: Site) -> float:
        return self._rate(site) or 0.0

    def rate_text(self, site: Site) -> str:
        rate = self._rate(site)
        return "" if rate is None else rate_in_words(rate)

    def evidence(self, site: Site) -> str:
        return "; ".join(
            f"{one.growth.growth:+,} in {units.elapsed(one.growth.since_s)}, at "
            f"{units.counted(one.growth.look_count, 'look')}, and none has left"
            for one in self._of(site)
            if one.growth.verdict is GoVerdict.LEAKING
        )

    def details(self, site: Site) -> Iterator[str]:
        groups = self._of(site)
        if site.state is not None:
            yield state_in_words(site.state)
        if groups:
            stacks = sum(one.growth.stack_bytes for one in groups)
            yield f"stacks {units.size(stacks)}"
        created = [one for one in groups if one.created_by is not None]
        for one in created[:_MOST_CREATORS]:
            yield _created(one)
        if len(created) > _MOST_CREATORS:
            yield f"and at {units.counted(len(created) - _MOST_CREATORS, 'other place')}"
        if site.stack.end in STACK_ENDS:
            yield STACK_ENDS[site.stack.end]

    def _of(self, site: Site) -> Sequence[GoroutineGroup]:
        return self._groups.get((site.id, site.state), ())

    def _rate(self, site: Site) -> float | None:
        rates = [one.growth.growth_per_s for one in self._of(site)]
        known = [rate for rate in rates if rate is not None]
        return sum(known) if known else None


def _created(group: GoroutineGroup) -> str:
    where = "" if group.created_by is None else line_in_words(group.created_by)
    count = units.counted(group.growth.count, "goroutine")
    return printable(f"{count}: go {started_as(group)} by {where}")
