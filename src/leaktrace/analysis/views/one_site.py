"""--site: one site, by its id or by as many of the first digits as no other site has."""

from __future__ import annotations

import re
from collections.abc import Iterator

from leaktrace.analysis.views.parts import parts_of, sites_of
from leaktrace.errors import UsageError
from leaktrace.model import Report
from leaktrace.printable import printable

_ID = re.compile(r"[0-9a-f]{1,16}", re.ASCII)
_MOST_NAMED = 3
_LIST = "leaktrace show RUN --by site -T 1000 -f json lists ids of sites"


def parse_site_id(text: str) -> str:
    """An id, or its first digits. Raises UsageError."""
    digits = text.lower()
    if not _ID.fullmatch(digits):
        raise UsageError(
            f"--site {printable(text, 60)!r} is no id of a site",
            "an id has 16 hexadecimal digits; those that text shows are enough",
        )
    return digits


class OneSite:
    """Looks for one site in reports."""

    def __init__(self, digits: str) -> None:
        self._digits = digits
        self._found: set[str] = set()

    def look(self, report: Report) -> None:
        """Look for it in a report and its sections. Raises UsageError if the digits are those of
        several sites, in this report or in those before."""
        self._found.update(self._matching(report))
        if len(self._found) > 1:
            named = [printable(one) for one in sorted(self._found)]
            more = f" and {len(named) - _MOST_NAMED:,} more" if len(named) > _MOST_NAMED else ""
            raise UsageError(
                f"--site {self._digits} is ambiguous: {', '.join(named[:_MOST_NAMED])}{more}",
                "give more digits",
            )

    @property
    def is_found(self) -> bool:
        return bool(self._found)

    def refuse_unknown(self, where: str) -> None:
        """Raise UsageError if it was in no report. `where`: what was looked through."""
        if not self._found:
            raise UsageError(f"no site of {where} has an id that begins with {self._digits}", _LIST)

    def _matching(self, report: Report) -> Iterator[str]:
        for part in parts_of(report):
            for site in sites_of(part):
                if site.id.startswith(self._digits):
                    yield site.id
