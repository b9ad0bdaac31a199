"""The Go code of traced processes, in short, for the reports of a trace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from leaktrace import units
from leaktrace.analysis.go_reports import summary_of
from leaktrace.errors import LeaktraceError
from leaktrace.go_report import GoSummary
from leaktrace.model import Report
from leaktrace.printable import printable
from leaktrace.process.background import in_background
from leaktrace.process.member import Member
from leaktrace.process.tracer import Tracer
from leaktrace.runtimes.go.program import NotGoError, UnknownGoError, open_go_program
from leaktrace.targets.mappings import NoMappingsError

if TYPE_CHECKING:
    from leaktrace.process.go_looks import GoLooks

_MOST_PROCESSES = 8  # to find Go code takes a tenth of a second for each
_MOST_GROUPS = 3
_MOST_SHARE = 0.1  # of the time is spent looking: 100,000 goroutines take a second
_OLD_S = 2.0


@dataclass(frozen=True)
class _Untold:
    """Why nothing is said of the Go code of a process."""

    what: str
    why: LeaktraceError

    @property
    def note(self) -> str:
        return f"{self.what}: {self.why.message}: {self.why.hint}"

    def adds_to(self, notes: Sequence[str]) -> bool:
        """Whether the reason isn't told already. A file that can't be read may have an allocator,
        which matters more."""
        return not any(note.startswith(self.why.message) for note in notes)


class GoSummaries:
    """Looks at those of the traced processes that the user named. Nothing is stopped, or written
    to."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._watched: dict[tuple[int, int], GoLooks | None] = {}  # by program; None: it isn't Go
        self._found: dict[tuple[int, int], GoSummary] = {}
        self._looked_s: dict[tuple[int, int], float] = {}  # when a look at it began
        self._due_s: dict[tuple[int, int], float] = {}  # when it may be looked at again
        self._untold: dict[tuple[int, int], _Untold] = {}
        self._left_out = 0

    def look(self, pump: Callable[[], None], *, is_last: bool) -> None:
        """Look at those that are alive. One that takes long to look at is not looked at for each
        report, but for the last one."""
        named = [one for one in self._tracer.family.living if one.parent_pid is None]
        self._left_out = max(self._left_out, len(named) - _MOST_PROCESSES)
        for member in named[:_MOST_PROCESSES]:
            key, now_s = member.key, time.monotonic()
            is_due = is_last or now_s >= self._due_s.get(key, 0.0)
            if self._watched.get(key, self) is not None and is_due:
                in_background(partial(self._look_at, member), pump)
                took_s = time.monotonic() - now_s
                self._looked_s[key] = now_s
                self._due_s[key] = now_s + took_s / _MOST_SHARE

    def describe(self, report: Report) -> Report:
        """The report with what was seen last."""
        seen = tuple(self._shown())
        members = {one.key for one in self._tracer.family}
        told = report.target.notes
        notes = [
            one.note for key, one in self._untold.items() if key in members and one.adds_to(told)
        ]
        if self._left_out > 0 and (seen or notes):
            notes.append(
                f"goroutines and heaps of Go: {_MOST_PROCESSES} processes were looked at, "
                f"{self._left_out:,} more were not"
            )
        target = replace(report.target, notes=(*told, *notes))
        return replace(report, go=seen, target=target)

    def _shown(self) -> Iterator[GoSummary]:
        for member in self._tracer.family:
            found = self._found.get(member.key)
            if found is None:
                continue
            age_s = time.monotonic() - self._looked_s[member.key]
            if not found.problem and age_s > _OLD_S:
                old = f"these figures are {units.elapsed(age_s)} old: it takes long to look"
                found = replace(found, problem=old)
            yield found

    def _look_at(self, member: Member, _is_abandoned: Callable[[], bool]) -> None:
        process, key = member.traced.process, member.key
        what = f"whether process {process.pid} has goroutines of Go is not known"
        try:
            if key not in self._watched:
                program = open_go_program(process.pid)
                version = printable(program.version.text)
                what = f"goroutines and heap of process {process.pid} ({version}) are not shown"
                # Few processes are Go programs.
                from leaktrace.process.go_looks import GoLooks  # noqa: PLC0415

                self._watched[key] = GoLooks(process, _MOST_GROUPS, program)
            watched = self._watched[key]
            assert watched is not None  # callers don't ask for others
            watched.look()
            seen = watched.reports.build(
                number=1, command=process.read_name(), reason=None, notes=watched.notes
            )
            self._found[key] = summary_of(seen)
        except UnknownGoError as error:
            self._watched[key] = None
            self._untold[key] = _Untold("goroutines are not shown", error)
        except NotGoError:
            self._watched[key] = None
        except LeaktraceError as error:
            if key in self._found:
                self._found[key] = replace(self._found[key], problem=error.message)
            elif isinstance(error, NoMappingsError):
                return  # it executes a program, or its first thread has exited: a note says that
            elif process.is_alive():
                self._untold[key] = _Untold(what, error)
            self._watched.setdefault(key, None)
        except OSError:  # it has ended
            self._watched.setdefault(key, None)
