"""--contents: showing what is in blocks."""

from __future__ import annotations

from typing import Any

import click

from leaktrace.cli.blocks import refuse_without_blocks
from leaktrace.cli.values import refuse_given
from leaktrace.options import By

contents_option = click.option(
    "--contents",
    is_flag=True,
    help="Also show what is in the oldest blocks of the first sites: bytes, text, the C++ class, "
    "what their pointers lead to, and what all of them share. This shows data of the program, "
    "which may be secret. The process is not stopped.",
)


def contents_asked(asked: dict[str, Any]) -> bool:
    """Whether it was asked. Raises UsageError."""
    if not asked["contents"]:
        return False
    refuse_without_blocks(asked, "--contents", "it looks at each block that malloc has returned")
    given = {"-f memleak": asked["format_name"] == "memleak"}
    refuse_given(given, "--contents", "that format has no place for it")
    given = {"--by process": asked["by"] == By.PROCESS.value}
    refuse_given(given, "--contents", "it shows the sites of all processes together")
    return True
