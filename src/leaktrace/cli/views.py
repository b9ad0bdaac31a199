"""--by, --quantity, --focus, --ignore, --min-share: a report seen in another way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from leaktrace.analysis.quantities import Quantity
from leaktrace.analysis.views.by_size import BY_SIZE
from leaktrace.analysis.views.filters import site_filter
from leaktrace.analysis.views.places import Grouping
from leaktrace.analysis.views.trees import Direction
from leaktrace.errors import UsageError
from leaktrace.report.export import EXPORTS
from leaktrace.report.view_reporter import ViewOptions

_Command = TypeVar("_Command", bound=Callable[..., Any])
BY = [*(one.value for one in Grouping), *(one.value for one in Direction)]

_NOT_BY_THREAD = (
    "--by thread: recordings don't have it, because leaktrace doesn't keep which thread allocated "
    "a block: that would make each record larger"
)


class _View(click.Choice):  # type: ignore[type-arg]
    """A view; for threads, why there is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        if isinstance(value, str) and value in ("thread", "threads"):
            raise UsageError(
                _NOT_BY_THREAD,
                f"use {', '.join(BY[:-1])} or {BY[-1]}; --trace prints the thread of each call",
            )
        return super().convert(value, param, ctx)


by_option = click.option(
    "--by",
    type=_View(BY),
    help="Show sites by function, module, line of source, process, or size of their blocks; tree: "
    "all stacks from the outermost callers down; callers: from the allocating functions up. "
    "(Threads are not recorded.)",
)
quantity_option = click.option(
    "--quantity",
    type=click.Choice([one.value for one in Quantity]),
    default=Quantity.IN_USE.value,
    show_default=True,
    metavar="QUANTITY",
    help=f"What is shown: {', '.join(Quantity)}. Bytes or blocks, that are in use, or were "
    "allocated or freed since tracing began; growth: bytes per hour, of sites that grow.",
)


def filter_options(command: _Command) -> _Command:
    """--focus and --ignore."""
    ignore = click.option(
        "--ignore",
        metavar="RE",
        help="Leave out the sites that this regular expression matches in the same way.",
    )
    focus = click.option(
        "--focus",
        metavar="RE",
        help="Only sites with a frame whose function, source file or module this regular "
        "expression (of Python) matches somewhere.",
    )
    return focus(ignore(command))


def view_options(command: _Command) -> _Command:
    """All of them, for a command that shows reports."""
    least_share = click.option(
        "--min-share",
        type=click.FloatRange(0, 100),
        default=100 * ViewOptions.least_share,
        show_default=True,
        metavar="PERCENT",
        help="With --by tree or callers: fold what is less than this share.",
    )
    return by_option(quantity_option(filter_options(least_share(command))))


def view_asked(
    *,
    by: str | None,
    quantity: str,
    focus: str | None,
    ignore: str | None,
    site: str | None,
    min_share: float,
    top: int | None,
    format_name: str,
) -> ViewOptions | None:
    """How reports are to be seen; None: as usual. Raises UsageError for a bad expression, and for
    options that don't go together."""
    given = [name for name in ("by", "quantity", "focus", "ignore", "min_share") if _is_given(name)]
    if site is not None:
        if format_name not in ("text", "json", *EXPORTS):
            raise UsageError(f"-f {format_name} has no --site", "use -f text or json")
        if not given and format_name in ("text", "json"):
            return None  # a report as usual, of that site
    elif not given:
        return None
    own = ("text", "json")
    exported = {"focus", "ignore", *(["quantity"] if format_name == "folded" else [])}
    refused = [name for name in given if name not in exported]
    if format_name not in own and (refused or format_name not in EXPORTS):
        option = f"--{(refused or given)[0].replace('_', '-')}"
        raise UsageError(f"-f {format_name} has no {option}", "use -f text or json")
    by = by or Grouping.SITE.value
    if by == Grouping.SIZE and Quantity(quantity) not in BY_SIZE:
        raise UsageError(
            f"--quantity {quantity} can't be used with --by size: of sizes, only what is in use is "
            "recorded",
            f"use --quantity {' or '.join(BY_SIZE)}",
        )
    is_tree = by in tuple(Direction)
    if "min_share" in given and not is_tree:
        raise UsageError("--min-share is for trees", "add --by tree, or --by callers")
    return ViewOptions(
        Direction(by) if is_tree else Grouping(by),
        Quantity(quantity),
        site_filter(focus, ignore, site) or None,
        top or ViewOptions.top,
        min_share / 100,
    )


def _is_given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is ParameterSource.COMMANDLINE
