"""`leaktrace diff`: which sites hold more or less than in another run, or at another time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from leaktrace.analysis.quantities import Quantity
from leaktrace.cli.commands import SETTINGS, Command
from leaktrace.cli.late_names import late_names_options
from leaktrace.cli.one_target import one_file_option
from leaktrace.cli.values import WholeNumber
from leaktrace.cli.views import filter_options
from leaktrace.errors import UsageError
from leaktrace.notices import notify
from leaktrace.options import LateNamesOptions
from leaktrace.report.diff_exports import DIFF_EXPORTS

if TYPE_CHECKING:
    from leaktrace.analysis.comparing.changes import Diff
    from leaktrace.analysis.comparing.generations import Generations
    from leaktrace.cli.moments import When
    from leaktrace.recording.late_names import LateNames

_USAGE = "leaktrace diff BASE NEW, or leaktrace diff RUN@first RUN@last"
_OWN_FORMATS = {"text": "for reading", "json": "one JSON object (docs/json.md)"}
_FORMATS = _OWN_FORMATS | dict(DIFF_EXPORTS)

_QUANTITIES = [one.value for one in Quantity if one is not Quantity.GROWTH]


class DiffCommand(Command):
    """Compares two reports."""

    advice = f"two reports at a time: {_USAGE}"


@click.command("diff", cls=DiffCommand, context_settings=SETTINGS)
@click.argument("base", required=False, metavar="BASE[@WHEN]")
@click.argument("new", required=False, metavar="NEW[@WHEN]")
@click.option(
    "--still-at",
    metavar="WHEN",
    help="Show what was allocated between BASE and NEW, two moments of one recording, and is still "
    "there at WHEN.",
)
@click.option(
    "--quantity",
    type=click.Choice(_QUANTITIES),
    default=Quantity.IN_USE.value,
    show_default=True,
    metavar="QUANTITY",
    help=f"What is compared: {', '.join(_QUANTITIES)}. Bytes or blocks, that are in use, or were "
    "allocated or freed since tracing began.",
)
@filter_options
@late_names_options
@click.option("--force", is_flag=True, help="Compare different programs, too.")
@click.option(
    "-T",
    "--top",
    type=WholeNumber(1),
    default=10,
    show_default=True,
    metavar="N",
    help="Show at most N sites.",
)
@click.option(
    "-f",
    "--format",
    "format_name",
    type=click.Choice(list(_FORMATS)),
    default="text",
    show_default=True,
    help="; ".join(f"{name}: {summary}" for name, summary in _FORMATS.items()) + ".",
)
@one_file_option
def command(
    *,
    base: str | None,
    new: str | None,
    still_at: str | None,
    quantity: str,
    focus: str | None,
    ignore: str | None,
    sysroots: tuple[Path, ...],
    debuginfod: bool,
    force: bool,
    top: int,
    format_name: str,
    output: Path | None,
) -> None:
    """Show which sites hold more or less than in another recording, or at another time.

    BASE and NEW are recordings (--record FILE), or streams of --format json, also those of
    leaktrace go. WHEN chooses a report: first, last (the default), peak, a report's number, a time
    since tracing began (10m), or a mark.
    Sites of different runs are matched by their ids; where a program or a library was built anew,
    by the names of their functions. Sites that can't be told apart are taken together.
    """
    from leaktrace.analysis.views.filters import site_filter  # noqa: PLC0415
    from leaktrace.cli.moments import parse_when, reports_at  # noqa: PLC0415
    from leaktrace.report.comparisons import ComparisonWriter  # noqa: PLC0415
    from leaktrace.report.output import open_output  # noqa: PLC0415

    if base is None or new is None:
        raise UsageError("two reports are compared", _USAGE)
    wanted = [parse_when(base), parse_when(new)]
    same_run = _is_same(*wanted)
    if still_at is not None:
        if not same_run:
            raise UsageError(
                "--still-at is about one recording, and these are two",
                "leaktrace diff RUN@EARLIER RUN@LATER --still-at LATEST",
            )
        wanted.append(parse_when(still_at, wanted[1].path))
    chosen = site_filter(focus, ignore)
    names = _late_names(LateNamesOptions(sysroots, debuginfod))
    reports, problems = reports_at(wanted)
    if names is not None:
        reports = [names.added_to(report) for report in reports]
        problems += names.problems
    for problem in problems:
        notify(problem)
    compared: Diff | Generations
    if still_at is not None:
        from leaktrace.analysis.comparing.generations import generations  # noqa: PLC0415

        compared = generations(reports[0], reports[1], reports[2], Quantity(quantity), chosen)
    else:
        from leaktrace.analysis.comparing.changes import compare  # noqa: PLC0415

        compared = compare(
            reports[0], reports[1], Quantity(quantity), chosen, same_run=same_run, force=force
        )
    with open_output(None if output == Path("-") else output, is_waiting=True) as opened:
        writer = ComparisonWriter(opened.stream, sys.stderr)
        writer.show(compared, [one.name for one in wanted], top, format_name)


def _late_names(options: LateNamesOptions) -> LateNames | None:
    from leaktrace.recording.late_names import LateNames  # noqa: PLC0415

    return LateNames(options) if options.are_wanted else None


def _is_same(one: When, other: When) -> bool:
    try:
        return one.path.samefile(other.path)
    except OSError:
        return False  # reading it says why
