"""--sysroot and --debuginfod: names that were missing when a recording was made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


def late_names_options(command: _Command) -> _Command:
    """Both of them, for a command that reads recordings."""
    debuginfod = click.option(
        "--debuginfod",
        is_flag=True,
        help="Look them up by build ID in debug files of the servers in DEBUGINFOD_URLS; with "
        "--sysroot, after the files there. What is fetched is kept.",
    )
    sysroot = click.option(
        "--sysroot",
        "sysroots",
        type=click.Path(path_type=Path),
        multiple=True,
        metavar="DIR",
        help="Look up functions and lines that were not known when it was recorded: in files below "
        "this directory (/ for this machine), their debug files, and those of DEBUGINFOD_URLS. "
        "Files of another build are not used. Several: in each of them, in this order.",
    )
    return sysroot(debuginfod(command))
