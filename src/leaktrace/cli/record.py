"""--record: writing a recording, beside the reports that are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from leaktrace.cli.one_target import only_one
from leaktrace.cli.values import together
from leaktrace.errors import UsageError
from leaktrace.options import RecordOptions

record_options = together(
    click.option(
        "--record",
        type=click.Path(path_type=Path),
        multiple=True,
        callback=only_one("name one file"),
        metavar="FILE",
        help="Also write all reports with all their sites to this file, for leaktrace show. A name "
        "that ends in .gz or .zst is compressed. Calls that --trace prints are not recorded. No "
        "file is replaced.",
    ),
    click.option(
        "--record-contents",
        is_flag=True,
        help="With --record, and --contents or --heap: also record what is in blocks, which may be "
        "secret.",
    ),
)


def record_asked(asked: dict[str, Any]) -> RecordOptions | None:
    """What is recorded; None: nothing. Raises UsageError."""
    path, contents = asked["record"], asked["record_contents"]
    if path is None:
        if contents:
            raise UsageError("--record-contents needs --record", "add --record FILE")
        return None
    if contents and not (asked["contents"] or asked.get("heap")):
        raise UsageError("--record-contents needs --contents or --heap", "add one of them")
    refuse_record(path, asked["output"])
    return RecordOptions(path, contents)


def refuse_record(path: Path | None, output: Path | None) -> None:
    """Raise UsageError for a recording that has no file of its own."""
    if path == Path("-"):
        raise UsageError(
            "--record writes to a file, not to standard output",
            "name a file; for a stream: --format json",
        )
    if path is not None and output is not None and output.absolute() == path.absolute():
        raise UsageError("--record and --output name the same file", "name two files")
