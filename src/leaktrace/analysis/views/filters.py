"""--focus and --ignore: the sites whose stacks match a regular expression, as in pprof.

An expression is searched for (not anchored) in the function, the source file and the module of
each frame. A site is kept if some frame matches `focus` and none matches `ignore`. Source:
`FilterSamplesByName` of https://github.com/google/pprof, profile/filter.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from leaktrace.errors import UsageError
from leaktrace.model import Report
from leaktrace.own.time_limit import TimeIsUpError, cpu_limit
from leaktrace.printable import printable
from leaktrace.site import Frame, Site

_MOST_S = 10.0  # of CPU time, for all frames of a report
_LONGEST = 1000  # characters of an expression


@dataclass(frozen=True)
class SiteFilter:
    """Which sites are shown. Without expressions, all."""

    focus: re.Pattern[str] | None = None
    ignore: re.Pattern[str] | None = None
    most_s: float = _MOST_S
    site: str | None = None  # only the site whose id begins with this

    def __bool__(self) -> bool:
        """Whether it can leave anything out."""
        return any(one is not None for one in (self.focus, self.ignore, self.site))

    def kept(self, sites: Iterable[Site]) -> list[Site]:
        """The sites that are shown, in their order.

        Raises UsageError if comparing takes too long: an expression such as `(a+)+$` needs time
        that grows exponentially with the length of a name.
        """
        if self.site is not None:
            sites = [site for site in sites if site.id.startswith(self.site)]
        if self.focus is None and self.ignore is None:
            return list(sites)
        try:
            with cpu_limit(self.most_s):
                return self._kept(sites)
        except TimeIsUpError:
            given = " and ".join(
                f"--{name} {printable(one.pattern, 200)}"
                for name, one in (("focus", self.focus), ("ignore", self.ignore))
                if one is not None
            )
            raise UsageError(
                f"comparing names with {given} takes too long: it was given up after "
                f"{self.most_s:g} s",
                "avoid repetitions of repetitions, such as (a+)+ or (.*)*; a part of a name "
                "is enough",
            ) from None

    def _kept(self, sites: Iterable[Site]) -> list[Site]:
        searches = _Search(self.focus), _Search(self.ignore)
        return [
            site
            for site in sites
            if (self.focus is None or any(map(searches[0].finds, site.stack.frames)))
            and not (self.ignore is not None and any(map(searches[1].finds, site.stack.frames)))
        ]


def filtered(report: Report, chosen: SiteFilter) -> Report:
    """The report with only the sites that pass, also in its sections and its reports about each
    process. `site_count` and the totals stay, so that formats say how many are missing. Raises
    UsageError as `kept` does."""
    group = report.thread_stacks
    return replace(
        report,
        sites=tuple(chosen.kept(report.sites)),
        thread_stacks=group and replace(group, sites=tuple(chosen.kept(group.sites))),
        sections=tuple(filtered(one, chosen) for one in report.sections),
        other_memory=tuple(filtered(one, chosen) for one in report.other_memory),
        by_process=tuple(filtered(one, chosen) for one in report.by_process),
    )


class _Search:
    """One expression. Each text is searched once: stacks share frames."""

    def __init__(self, expression: re.Pattern[str] | None) -> None:
        self._expression = expression
        self._found: dict[str | None, bool] = {None: False}

    def finds(self, frame: Frame) -> bool:
        file = None if frame.source is None else frame.source.file
        return self._in(frame.function) or self._in(file) or self._in(frame.module)

    def _in(self, text: str | None) -> bool:
        found = self._found.get(text)
        if found is None:
            assert self._expression is not None and text is not None
            found = self._found[text] = self._expression.search(text) is not None
        return found


def site_filter(
    focus: str | None = None, ignore: str | None = None, site: str | None = None
) -> SiteFilter:
    """`site`: the first digits of an id. Raises UsageError for what is no regular expression."""
    return SiteFilter(_compiled("--focus", focus), _compiled("--ignore", ignore), site=site)


def _compiled(option: str, text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    if len(text) > _LONGEST:
        raise UsageError(
            f"{option} has {len(text):,} characters, and may have {_LONGEST:,}",
            "a part of a name is enough",
        )
    try:
        with cpu_limit(_MOST_S):
            return re.compile(text)
    except (re.error, OverflowError, RecursionError, TimeIsUpError) as error:
        why = error.msg if isinstance(error, re.error) else "it is too large"
        where = ""
        if isinstance(error, re.error) and error.pos is not None:
            where = f" at character {error.pos + 1}"
        raise UsageError(
            f"{option} {printable(text, 200)!r} is no regular expression: {why}{where}",
            f"a backslash makes a special character plain: {re.escape('operator()')}",
        ) from None
