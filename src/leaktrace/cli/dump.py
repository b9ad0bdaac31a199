"""`leaktrace dump`: the bytes of a part of a process's memory."""

from __future__ import annotations

import re
from pathlib import Path

import click

from leaktrace.cli.commands import SETTINGS, Command
from leaktrace.cli.one_target import only_one, pid_option
from leaktrace.cli.values import WholeNumber
from leaktrace.errors import UsageError
from leaktrace.options import DumpOptions

_USAGE = "leaktrace dump -p PID ADDRESS|MAPPING"
_MOST_BYTES = 1 << 47  # the address space of a process
_HEXADECIMAL = re.compile(r"0[xX][0-9a-fA-F]{1,16}")


class DumpCommand(Command):
    """Reads one range at a time."""

    advice = f"one address or mapping at a time: {_USAGE}"


@click.command("dump", cls=DumpCommand, context_settings=SETTINGS)
@click.argument("what", required=False, metavar="ADDRESS|MAPPING")
@pid_option("Read the memory of this process.")
@click.option(
    "--size",
    type=WholeNumber(1, _MOST_BYTES),
    metavar="N",
    help="Read N bytes. The default is the whole mapping.",
)
@click.option(
    "--all", "takes_all", is_flag=True, help="Read all mappings of this name, one after the other."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    multiple=True,
    callback=only_one("name one file; tee(1) writes to several"),
    metavar="FILE",
    help="Write to this file, replacing its contents; - means standard output.",
)
@click.option("--raw", "is_raw", is_flag=True, help="Write bytes as they are, to a terminal, too.")
@click.option("--hex", "is_hex", is_flag=True, help="Write them in hexadecimal, with the text.")
def command(
    *,
    what: str | None,
    pid: int | None,
    size: int | None,
    takes_all: bool,
    output: Path | None,
    is_raw: bool,
    is_hex: bool,
) -> int:
    """Write out a part of the memory of a process.

    ADDRESS is hexadecimal (0x55d0c8a2b000); without --size, the whole mapping that contains it is
    read. MAPPING is [heap], [stack], or the path or file name of a mapped file, as `leaktrace maps`
    and /proc/PID/maps show them.

    A file or a pipe gets the bytes as they are, with zeros for what can't be read. A terminal gets
    them in hexadecimal, with the text beside them; a row that is like the one before is left out,
    and `*` is shown for it. What can't be read is said on standard error.

    The process is not stopped, so the bytes are not all of the same instant. They are data of the
    process, and may be secret. Processes of other users need CAP_SYS_PTRACE.
    """
    if pid is None:
        raise UsageError("there is nothing to read: give -p PID", f"for example: {_USAGE}")
    if what is None:
        raise UsageError(
            "there is nothing to read: give an address or a mapping",
            f"for example: leaktrace dump -p {pid} '[heap]'; leaktrace maps -p {pid} lists them",
        )
    if is_raw and is_hex:
        raise UsageError("--raw and --hex can't be combined", "choose one of them")
    address = _address(what)
    if takes_all and (address is not None or size is not None):
        other = "--size" if address is None else "an address"
        raise UsageError(f"--all can't be used with {other}", "leave out --all")
    from leaktrace.session.dump import run_dump  # noqa: PLC0415

    return run_dump(
        DumpOptions(
            pid=pid,
            what=what if address is None else address,
            size=size,
            takes_all=takes_all,
            is_hex=True if is_hex else False if is_raw else None,
            output=None if output == Path("-") else output,
        )
    )


def _address(word: str) -> int | None:
    """An address; None for a name. Raises UsageError."""
    if word[:2] not in ("0x", "0X"):
        return None
    if _HEXADECIMAL.fullmatch(word) is None:
        raise UsageError(
            f"'{word}' is no address", "an address has up to 16 hexadecimal digits after 0x"
        )
    return int(word, 16)
