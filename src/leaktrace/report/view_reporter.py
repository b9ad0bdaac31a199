"""Reports seen in another way: by function, module, line, process, size, or as a
tree of calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, TextIO

from rich.text import Text

from leaktrace.analysis.quantities import Quantity, refuse_counters
from leaktrace.analysis.views.by_size import refuse_without_sizes
from leaktrace.analysis.views.filters import SiteFilter
from leaktrace.analysis.views.groups import select, view
from leaktrace.analysis.views.parts import parts_of, parts_with_sites
from leaktrace.analysis.views.places import Grouping
from leaktrace.analysis.views.trees import Direction, tree
from leaktrace.model import Event, Measure, Report
from leaktrace.report.diff_text import moment, target_in_words
from leaktrace.report.json_lines import json_line
from leaktrace.report.json_sites import Object
from leaktrace.report.layout import advised, flowed, painted, wrapped
from leaktrace.report.reporter import USUAL_COLUMNS, Reporter, terminal_width
from leaktrace.report.verdicts import verdict_lines
from leaktrace.report.views_json import tree_object, view_object, views_object
from leaktrace.report.views_text import tree_lines, view_lines
from leaktrace.units import loss_in_words, sample_in_words

_WHOLE = "all sites: "  # a verdict is on these, whatever the filter


@dataclass(frozen=True)
class ViewOptions:
    """How reports are seen."""

    by: Grouping | Direction = Grouping.SITE
    quantity: Quantity = Quantity.IN_USE
    filter: SiteFilter | None = None
    top: int = 10
    least_share: float = 0.01  # of what is shown: smaller nodes of a tree are folded


class ViewReporter(Reporter):
    """Text or JSON (`leaktrace/view/1`)."""

    summary: ClassVar[str] = "sites in groups, or as a tree"

    def __init__(
        self, options: ViewOptions, output: TextIO, notices: TextIO, *, is_json: bool
    ) -> None:
        super().__init__(output, notices)
        self._options = options
        self._is_json = is_json

    def report(self, report: Report) -> None:
        """Write one report. Raises UsageError if comparing names with the filter takes too long,
        if it is to be seen by size, and knows no sizes, and if it has only the number of what is
        there, and that is not asked for."""
        refuse_counters(report, self._options.quantity, "shown")
        if self._options.by is Grouping.SIZE:
            refuse_without_sizes(report)
        if self._is_json:
            parts = [self._object(part) for part in parts_of(report)]
            self.write(json_line(views_object(report, self._options.by.value, parts)))
            return
        width = terminal_width(self.output) or USUAL_COLUMNS
        self.write(painted(self.output, list(self._lines(report, width))))

    def events(self, events: Iterable[Event]) -> None:
        """Views have no place for single calls."""

    def _object(self, part: Report) -> Object:
        options = self._options
        selection = select(part, _quantity(part, options.quantity), options.filter)
        if isinstance(options.by, Direction):
            return tree_object(tree(selection, options.by), options.least_share)
        return view_object(view(selection, options.by), options.top)

    def _lines(self, report: Report, width: int) -> Iterator[Text]:
        title = Text().append("leaktrace", "bold")
        title.append(f"  {target_in_words(report, width)}", "bold cyan")
        yield from flowed([title, Text(moment(report))], width)
        indent = 0 if self._options.filter is None else len(_WHOLE)
        for line in verdict_lines(report, width - indent):
            yield Text(_WHOLE[:indent]).append_text(line)
        if report.is_estimate:
            yield from wrapped("estimate: ", sample_in_words(report), width, "yellow")
        for part in parts_with_sites(report):
            yield from self._part(part, width)
        for remark in report.remarks:
            if remark.kind.is_of_completeness:
                yield from advised("incomplete: ", remark.text, remark.hint, width, "bold yellow")
        for loss in report.losses:
            if loss.count and loss.is_lost:
                yield from advised("lost: ", loss_in_words(loss), loss.hint, width, "bold red")

    def _part(self, part: Report, width: int) -> Iterator[Text]:
        options = self._options
        selection = select(part, _quantity(part, options.quantity), options.filter)
        if isinstance(options.by, Direction):
            yield from tree_lines(tree(selection, options.by), options.least_share, width)
        else:
            yield from view_lines(view(selection, options.by), options.top, width)


def _quantity(part: Report, quantity: Quantity) -> Quantity:
    """Of objects without sizes, their number in place of bytes. Of goroutines beside a heap, there
    is only one figure, how many there are."""
    if part.measure is Measure.GOROUTINES:
        return Quantity.IN_USE_BLOCKS
    if part.is_counted and quantity.is_bytes and quantity is not Quantity.GROWTH:
        return Quantity(f"{quantity.value}-blocks")
    return quantity
