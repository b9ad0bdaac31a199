"""`leaktrace mark`: names this moment in a recording that is being written."""

from __future__ import annotations

import click

from leaktrace.cli.commands import SETTINGS, Command
from leaktrace.cli.one_target import pid_option
from leaktrace.errors import UsageError
from leaktrace.notices import notify
from leaktrace.printable import printable

_RESERVED = ("first", "last", "peak")  # as --at has them


@click.command("mark", cls=Command, context_settings=SETTINGS)
@click.argument("name", metavar="NAME")
@pid_option("The process id of the leaktrace that records, if there are several.")
def command(*, name: str, pid: int | None) -> int:
    """Name this moment in a recording that is being written.

    The leaktrace that was started with --record makes a report at once, and records it with NAME.
    leaktrace show RUN --at NAME shows that report. kill -USR2 does the same without a name. Needs
    to be the user that leaktrace runs as, or root.
    """
    if not name.strip():
        raise UsageError("the mark has no name", "leaktrace mark NAME")
    if name in _RESERVED or "@" in name:
        why = "it has an @" if "@" in name else f"it means the {name} report"
        raise UsageError(f"{printable(name)} can't be the name of a mark: {why}", "choose another")
    from leaktrace.session.marks import send_mark  # noqa: PLC0415

    report, which = send_mark(name, pid)
    notify(f"marked as {printable(name)}: report {report} of leaktrace {which}")
    return 0
