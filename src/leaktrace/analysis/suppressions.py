"""Sites that the user knows and does not want to see (--suppressions).

The patterns are LeakSanitizer's. One matches a stack if it matches the module, the function or the
source file of any of its frames. It matches a part of that text, unless it is anchored:

    leak:libfoo.so          libfoo.so is in the module's path, or in a name
    leak:^parse_*cache$     begins with parse_, ends with cache

https://github.com/google/sanitizers/wiki/AddressSanitizerLeakSanitizer#suppressions
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.sites import SiteTable
from leaktrace.model import Report, Suppressed, SuppressedByPattern
from leaktrace.options import Suppression
from leaktrace.site import Frame, Stack, Total
from leaktrace.verdict import Verdict

# So many of the largest sites of a report are named to compare them with the patterns; further ones
# only if there is a verdict on them, or if they would be shown.
MOST_COMPARED = 1000

_UNKNOWN = None, None


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> re.Pattern[str]:
    """The regular expression of a pattern, to be searched for."""
    text = pattern.removeprefix("^")
    parts = [re.escape(part) for part in text.removesuffix("$").split("*")]
    return re.compile(
        ("" if text == pattern else r"\A") + ".*".join(parts) + (r"\Z" if text[-1:] == "$" else ""),
        re.DOTALL,
    )


def matches(pattern: str, stack: Stack) -> bool:
    """Whether a pattern matches a stack."""
    expression = compiled(pattern)
    return any(expression.search(text) for frame in stack.frames for text in _texts(frame))


def _texts(frame: Frame) -> Iterator[str]:
    if frame.module is not None:
        yield frame.module
    if frame.function is not None:
        yield frame.function
    if frame.source is not None:
        yield frame.source.file


def matched_patterns(report: Report) -> set[str]:
    """The patterns that have matched a site of a report or of its parts."""
    parts = (report, *report.sections, *report.other_memory, *report.by_process)
    return {
        one.pattern
        for part in parts
        for one in (part.suppressed.patterns if part.suppressed is not None else ())
        if one.site_count
    }


class SuppressedSites:
    """Knows which sites of a report are suppressed, and by what."""

    def __init__(
        self,
        suppressions: Sequence[Suppression],
        stack_of: Callable[[int], Stack],
        prepare: Callable[[Sequence[int]], None],
    ) -> None:
        """`stack_of` returns the stack of a stack id; `prepare` is called before, with all of
        them."""
        self._suppressions = suppressions
        self._stack_of = stack_of
        self._prepare = prepare
        # By stack id: the stack as it was when it was compared (names may arrive later), and the
        # number of the pattern.
        self._known: dict[int, tuple[Stack, int | None]] = {}
        # In the report that is being made:
        self._compared: set[int] = set()
        self._hidden: dict[int, int] = {}

    def begin(self) -> None:
        """A report is being made."""
        self._known = {one: self._known[one] for one in self._compared}
        self._compared, self._hidden = set(), {}

    def without(
        self, order: NDArray[np.intp], table: SiteTable, top: int, more: Iterable[int] = ()
    ) -> NDArray[np.intp]:
        """The rows of a table that are not suppressed, in their order. So many are compared that
        all of the first `top` are known not to be. `more`: stack ids of further sites to compare.
        """
        if not self._suppressions:
            return order
        wanted = {*table.stack_ids[order[:MOST_COMPARED]].tolist(), *more}
        while wanted:
            self._compare(wanted)
            order = order[~np.isin(table.stack_ids[order], self.stack_ids)]
            wanted = set(table.stack_ids[order[:top]].tolist()) - self._compared
        return order

    def _compare(self, stack_ids: set[int]) -> None:
        new = sorted(stack_ids - self._compared)
        if new:
            self._prepare(new)
        for stack_id in new:
            stack, (before, found) = self._stack_of(stack_id), self._known.get(stack_id, _UNKNOWN)
            if stack is not before:
                found = self._pattern_of(stack)
                self._known[stack_id] = stack, found
            if found is not None:
                self._hidden[stack_id] = found
        self._compared |= stack_ids

    def _pattern_of(self, stack: Stack) -> int | None:
        """The number of the first pattern that matches a stack."""
        numbered = enumerate(self._suppressions)
        return next((number for number, one in numbered if matches(one.pattern, stack)), None)

    def allowed(self, verdicts: dict[int, Verdict]) -> dict[int, Verdict]:
        """The verdicts without those on suppressed sites."""
        return {one: verdict for one, verdict in verdicts.items() if one not in self._hidden}

    @property
    def stack_ids(self) -> NDArray[np.uint64]:
        """The suppressed sites."""
        return np.array(list(self._hidden), dtype=np.uint64)

    def rows_in(self, table: SiteTable) -> NDArray[np.intp]:
        """Their rows."""
        return np.nonzero(np.isin(table.stack_ids, self.stack_ids))[0]

    def account(self, table: SiteTable) -> Suppressed | None:
        """What they hold, by pattern; None if there are no patterns."""
        if not self._suppressions:
            return None
        counts = [0] * len(self._suppressions)
        totals = [Total()] * len(self._suppressions)
        for row in self.rows_in(table).tolist():
            number = self._hidden[int(table.stack_ids[row])]
            held = totals[number]
            counts[number] += 1
            totals[number] = Total(
                held.bytes + int(table.bytes[row]), held.count + int(table.counts[row])
            )
        each = zip(self._suppressions, counts, totals, strict=True)
        return Suppressed(
            tuple(SuppressedByPattern(one.pattern, count, held) for one, count, held in each)
        )
