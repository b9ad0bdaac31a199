"""--by, --quantity, --focus, --ignore: a report seen in another way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from leaktrace.analysis.quantities import Quantity
from leaktrace.analysis.views.places import Grouping
from leaktrace.analysis.views.trees import Direction

_Command = TypeVar("_Command", bound=Callable[..., Any])
BY = [*(one.value for one in Grouping), *(one.value for one in Direction)]

by_option = click.option(
    "--by",
    type=click.Choice(BY),
    help="Show sites by function, module, line of source or process; tree: all stacks from the "
    "outermost callers down; callers: from the allocating functions up.",
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
