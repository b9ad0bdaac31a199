"""The Go code of traced processes, in short, for the reports of a trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from leaktrace.analysis.go_reports import summary_of
from leaktrace.errors import LeaktraceError
from leaktrace.go_report import GoSummary
from leaktrace.model import Report
from leaktrace.process.background import in_background
from leaktrace.process.go_looks import GoLooks
from leaktrace.process.member import Member
from leaktrace.process.tracer import Tracer
from leaktrace.runtimes.go.program import NotGoError

_MOST_PROCESSES = 8  # to find Go code takes a tenth of a second for each
_MOST_GROUPS = 3


class GoSummaries:
    """Looks at those of the traced processes that the user named. Nothing is stopped, or written
    to."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._watched: dict[tuple[int, int], GoLooks | None] = {}  # by program; None: it isn't Go
        self._found: dict[tuple[int, int], GoSummary] = {}

    def look(self, pump: Callable[[], None]) -> None:
        """Look at all that are alive."""
        named = [one for one in self._tracer.family.living if one.parent_pid is None]
        for member in named[:_MOST_PROCESSES]:
            if self._watched.get(member.key, self) is not None:
                in_background(partial(self._look_at, member), pump)

    def describe(self, report: Report) -> Report:
        """The report with what was seen last."""
        found = (self._found.get(member.key) for member in self._tracer.family)
        return replace(report, go=tuple(one for one in found if one is not None))

    def _look_at(self, member: Member, _is_abandoned: Callable[[], bool]) -> None:
        process, key = member.traced.process, member.key
        try:
            if key not in self._watched:
                self._watched[key] = GoLooks(process, _MOST_GROUPS)
            watched = self._watched[key]
            assert watched is not None  # callers don't ask for others
            watched.look()
            seen = watched.reports.build(
                number=1, command=process.read_name(), reason=None, notes=watched.notes
            )
            self._found[key] = summary_of(seen)
        except NotGoError:
            self._watched[key] = None
        except LeaktraceError as error:
            self._watched.setdefault(key, None)
            if key in self._found:
                self._found[key] = replace(self._found[key], problem=error.message)
        except OSError:  # it has ended
            self._watched.setdefault(key, None)
