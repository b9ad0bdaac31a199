"""What remains to be said at the end of a run, and its exit status, from the verdicts of its
reports (--exit-code leak, --leak-threshold, --suppressions)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from leaktrace import units
from leaktrace.analysis.go_reports import summary_of
from leaktrace.analysis.suppressions import matched_patterns
from leaktrace.go_report import GoReport, GoSummary, GoVerdict
from leaktrace.model import Report
from leaktrace.notices import hint, notify
from leaktrace.options import LeakExit, Suppression
from leaktrace.printable import printable
from leaktrace.verdict import Verdict, VerdictKind

_LONGER = (
    "trace longer, or with a shorter INTERVAL (a verdict needs three reports, or 20 s), or use "
    "--lost"
)
_LONGER_FOR_GO = (
    "look more often: goroutines need three looks, the heap six that come after a collection each"
)


class Conclusion:
    """Sees all reports of a run."""

    def __init__(self, leak_exit: LeakExit | None, suppressions: Sequence[Suppression]) -> None:
        """`leak_exit`: what counts as a leak, and the exit status for it; None: no verdict has an
        effect."""
        self._leak_exit = leak_exit
        self._unmatched = {one.pattern: one for one in suppressions}
        # In the last report that had a verdict; None: none had.
        self._leaks: list[Verdict] | None = None
        self._slower = 0  # sites that grow, but not as fast as the threshold
        self._early: Verdict | None = None  # of the last report, if it was too early for one
        self._go_leaks: list[str] | None = None  # what leaks of Go, in words; as `_leaks`
        self._go_early = ""  # what is not known of Go in the last report, in words
        self._go_slower = False  # a heap of Go grows, but not as fast as the threshold
        self._is_of_go = False  # there is nothing but Go

    def see(self, report: Report) -> None:
        """A report was made."""
        for pattern in matched_patterns(report):
            self._unmatched.pop(pattern, None)
        if self._leak_exit is not None:
            self._early = _too_early(report)
            leaks = leaks_in(report, self._leak_exit.threshold_per_s)
            if leaks is not None:
                self._leaks = leaks
                self._slower = len(leaks_in(report, 0) or ()) - len(leaks)
            self._see_go(report.go)

    def see_go(self, report: GoReport) -> None:
        """A report on the goroutines and the heap of a program was made."""
        self._is_of_go = True
        self._see_go([summary_of(report)])

    def _see_go(self, seen: Sequence[GoSummary]) -> None:
        if self._leak_exit is None or not seen:
            return
        self._go_early = _go_too_early(seen)
        leaks = go_leaks_in(seen, self._leak_exit.threshold_per_s)
        if leaks is not None:
            self._go_leaks = leaks
            self._go_slower = not leaks and bool(go_leaks_in(seen, 0))

    def tell(self, *, verbose: bool) -> None:
        """What the reports don't say, on stderr."""
        for one in self._unmatched.values() if verbose else ():
            pattern = printable(one.pattern)
            notify(f"{printable(one.origin)}: leak:{pattern} has matched no site")
        if self._leak_exit is None:
            return
        found = [*([_in_words(self._leaks)] if self._leaks else ()), *(self._go_leaks or ())]
        if found:
            what = " and ".join(found)
            notify(f"{what}: exit status {self._leak_exit.status} (--exit-code leak)")
        elif self._leaks is None and self._go_leaks is None and not self._may_grow:
            notify("no report had a verdict: the exit status says nothing about leaks")
            hint(_LONGER_FOR_GO if self._is_of_go else _LONGER)
        else:
            self._tell_of_sites()
            self._tell_of_go()

    @property
    def _may_grow(self) -> bool:
        return self._early is not None and self._early.may_grow

    def _tell_of_sites(self) -> None:
        early = self._early
        if early is not None and early.may_grow:
            notify("some sites grow slowly, and may be filling: they don't count as leaks yet")
            hint(f"trace for {units.elapsed(early.needs_s or 0.0)} more")
        elif early is not None:
            notify(f"in the last report it was too early for a verdict: {early.reason}")
            hint("trace longer, or use --lost")
        elif self._slower:
            grow = "one site grows" if self._slower == 1 else f"{self._slower} sites grow"
            notify(f"{grow}, none as fast as --leak-threshold")

    def _tell_of_go(self) -> None:
        if self._go_early:
            notify(f"in the last report it was too early for a verdict on {self._go_early}")
            hint("trace longer")
        elif self._go_slower:
            notify("the heap of Go grows, not as fast as --leak-threshold")

    def exit_status(self, own: int) -> int:
        """The exit status of the run. `own`: the one that it has if nothing leaks. A failure of the
        command that was passed on stays one."""
        if own or self._leak_exit is None or not (self._leaks or self._go_leaks):
            return own
        return self._leak_exit.status


def _in_words(leaks: Sequence[Verdict]) -> str:
    has_lost = any(one.kind is VerdictKind.LEAK for one in leaks)
    if len(leaks) == 1:
        return "one site leaks" if has_lost else "one site grows"
    return f"{len(leaks)} sites {'leak' if has_lost else 'grow'}"


def leaks_in(report: Report, threshold_per_s: float) -> list[Verdict] | None:
    """The verdicts on sites that grow faster than this, in bytes (or objects without sizes) per
    second, or whose blocks are lost; None if it is too early for any verdict."""
    if all(verdict.kind is VerdictKind.TOO_EARLY for verdict in _verdicts(report)):
        return None
    return [
        verdict
        for part in _parts(report)
        for verdict in part.leaking
        if verdict.kind is VerdictKind.LEAK
        or threshold_per_s == 0
        or (verdict.bytes_per_s or 0.0) > threshold_per_s
    ]


def _too_early(report: Report) -> Verdict | None:
    """Of the verdicts that it is too early for one, that which takes the longest until it is known,
    those on growth first; None: there is none."""
    early = [one for one in _verdicts(report) if one.kind is VerdictKind.TOO_EARLY]
    return max(early, key=lambda one: (one.may_grow, one.needs_s or 0.0), default=None)


def _verdicts(report: Report) -> Iterator[Verdict]:
    """Those on the report, and on its parts. What has no sites says nothing of those that have."""
    for part in _parts(report):
        if part.verdict is not None and (part is report or part.site_count):
            yield part.verdict


def _parts(report: Report) -> Iterator[Report]:
    """A report, and those about other memory, pairs of functions and other allocators."""
    yield from (report, *report.other_memory, *report.sections)


def go_leaks_in(seen: Sequence[GoSummary], threshold_per_s: float) -> list[str] | None:
    """What leaks of Go, in words: groups of goroutines that only grow, and heaps that grow faster
    than this, in bytes per second. None if it is too early for any verdict."""
    heaps = [one.heap_verdict for one in seen if one.heap_verdict is not None]
    if all(one.verdict is GoVerdict.TOO_EARLY for one in seen) and all(
        one.kind is VerdictKind.TOO_EARLY for one in heaps
    ):
        return None
    found = []
    if any(one.verdict is GoVerdict.LEAKING for one in seen):
        found.append("goroutines pile up")
    if any(
        one.kind is VerdictKind.GROWING and (one.bytes_per_s or 0.0) > threshold_per_s
        for one in heaps
    ):
        found.append("the heap of Go grows")
    return found


def _go_too_early(seen: Sequence[GoSummary]) -> str:
    """Of what there is no verdict yet, with the reason; "": there is one of all."""
    if any(one.verdict is GoVerdict.TOO_EARLY for one in seen):
        return "goroutines"
    heaps = (one.heap_verdict for one in seen if one.heap_verdict is not None)
    early = next((one for one in heaps if one.kind is VerdictKind.TOO_EARLY), None)
    return "" if early is None else f"the heap of Go: {early.reason}"
