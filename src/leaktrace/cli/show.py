"""`leaktrace show`: the reports of a recording."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from leaktrace.analysis.views.one_site import parse_site_id
from leaktrace.cli.commands import SETTINGS, Command
from leaktrace.cli.late_names import late_names_options
from leaktrace.cli.one_target import one_file_option
from leaktrace.cli.values import WholeNumber
from leaktrace.cli.views import view_asked, view_options
from leaktrace.errors import UsageError
from leaktrace.options import LateNamesOptions, ShowOptions
from leaktrace.report import FORMATS
from leaktrace.report.export import EXPORTS

_SUMMARIES = [
    *(f"{name}: {one.summary}" for name, one in FORMATS.items()),
    *(f"{name}: {one.summary}" for name, one in EXPORTS.items()),
]


class ShowCommand(Command):
    """Shows one recording at a time."""

    def refuse(self, words: Sequence[str], context: click.Context) -> None:
        raise UsageError(
            f"unexpected words: {' '.join(words)}", "one recording at a time: leaktrace show RUN"
        )


@click.command("show", cls=ShowCommand, context_settings=SETTINGS)
@click.argument("recording", type=click.Path(path_type=Path), metavar="RUN")
@click.option(
    "--at",
    metavar="WHEN",
    default="last",
    show_default=True,
    help="The report to show: last, first, its number, peak (the one with the most outstanding "
    "bytes), the last one until a time (14:05, 2026-03-01T14:05, or since tracing began: 90s, 5m, "
    "1h30m), or the name of a mark.",
)
@click.option(
    "--from",
    "first",
    metavar="WHEN",
    help="Show all reports from this one on, to the last one or that of --to. WHEN as for --at.",
)
@click.option("--to", "last", metavar="WHEN", help="Show all reports up to this one.")
@click.option("--marks", is_flag=True, help="List the marks (leaktrace mark) instead.")
@click.option(
    "-T",
    "--top",
    type=WholeNumber(1),
    metavar="N",
    help="Show at most N sites. Default: as many as leaktrace showed while it recorded; formats of "
    "other tools get all.",
)
@click.option(
    "--full-stacks", is_flag=True, help="Show all frames of each stack, as far as recorded."
)
@late_names_options
@click.option(
    "-f",
    "--format",
    "format_name",
    type=click.Choice([*FORMATS, *EXPORTS]),
    default="text",
    show_default=True,
    metavar="FORMAT",
    help="; ".join(_SUMMARIES) + ".",
)
@click.option(
    "--site",
    metavar="ID",
    help="Show only the site with this id; as many of its first digits as no other site has are "
    "enough.",
)
@one_file_option
@view_options
def command(
    *,
    recording: Path,
    at: str,
    first: str | None,
    last: str | None,
    marks: bool,
    top: int | None,
    full_stacks: bool,
    sysroots: tuple[Path, ...],
    debuginfod: bool,
    format_name: str,
    output: Path | None,
    by: str | None,
    quantity: str,
    focus: str | None,
    ignore: str | None,
    site: str | None,
    min_share: float,
) -> int:
    """Show the reports of a recording.

    RUN is a file that leaktrace --record or leaktrace go --record has written, or the output of
    --format json. Without options, the last report is shown. A recording that was cut off, or is
    still being written, is read up to its last whole line. Nothing is traced, and no privileges are
    needed.
    """
    if at != "last" and (first is not None or last is not None):
        raise UsageError(
            "--at shows one report, --from and --to several: they can't be combined",
            "leave out --at",
        )
    from leaktrace.session.show import run_show  # noqa: PLC0415

    site = None if site is None else parse_site_id(site)

    return run_show(
        ShowOptions(
            recording=recording,
            at=at,
            first=first,
            last=last,
            marks=marks,
            top=top,
            full_stacks=full_stacks,
            late_names=LateNamesOptions(sysroots, debuginfod),
            site=site,
            format=format_name,
            output=None if output == Path("-") else output,
        ),
        view_asked(
            by=by,
            quantity=quantity,
            focus=focus,
            ignore=ignore,
            site=site,
            min_share=min_share,
            top=top,
            format_name=format_name,
        ),
    )
