"""Options that say how stacks are walked and shown."""

from __future__ import annotations

import click

from leaktrace.cli.values import WholeNumber, together
from leaktrace.options import StackWalker

stack_options = together(
    click.option(
        "--depth",
        type=WholeNumber(1),
        metavar="N",
        help="Use only the first N frames of each stack. The program's own frames among them are "
        "then all shown; runs of others are still folded, unless --full-stacks is given.",
    ),
    click.option(
        "--full-stacks",
        is_flag=True,
        help="Show all frames of each stack. By default about six are shown, preferably the "
        "program's own; runs of others (interpreter, event loop, C++ library, start of a thread) "
        "are folded into one line, and wrappers that only forward the request (operator new) are "
        "left out.",
    ),
    click.option("--no-inline", is_flag=True, help="Do not show inlined functions."),
    click.option(
        "--no-lines",
        is_flag=True,
        help="Do not show source files and lines. With --no-inline, debug information is not read.",
    ),
    click.option(
        "--stack-walker",
        type=click.Choice([walker.value for walker in StackWalker]),
        default=StackWalker.AUTO.value,
        show_default=True,
        help="Walk stacks with the unwind tables of the binaries (eh_frame), which every "
        "distribution ships, or with frame pointers (fp), which most binaries lack.",
    ),
)
