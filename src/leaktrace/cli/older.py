"""--heap: the blocks that are older than the trace. --max-pause-ms: for how long that may take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from leaktrace.cli.blocks import refuse_without_blocks, with_value
from leaktrace.cli.values import refuse_given
from leaktrace.errors import UsageError
from leaktrace.options import CommandTarget, HeapLooks, ProcessOptions, Target

heap_option = click.option(
    "--heap",
    type=click.Choice([one.value for one in HeapLooks]),
    metavar="[=every|=last]",
    help="Also say what is in the blocks that are older than the trace: C++ classes, texts and "
    "sizes, and which of them nothing points to. Their call stacks are not known. The process is "
    "stopped for it once, at the first report and at the final one, about 0.2 s per GiB and 0.4 s "
    "per million traced blocks; with =every at every report, with =last at the final one only. "
    "Some system calls of the process may return EINTR (man 7 signal). It knows the malloc of "
    "glibc and that of musl.",
)


def with_plain_heap(args: Sequence[str]) -> list[str]:
    """The words of the command line, with a value for --heap. Raises UsageError."""
    return with_value(args, "--heap", HeapLooks.ENDS, lambda word: word in list(HeapLooks))


def heap_asked(asked: dict[str, Any], target: Target) -> dict[str, Any]:
    """When the heap is walked, as fields of ProcessOptions. Raises UsageError."""
    if asked["heap"] is None:
        return {}
    refuse_without_blocks(asked, "--heap", "it tells blocks with a record from others")
    chosen = {
        "-s": asked["sample_rate"] > 1,
        "--sample-bytes": asked["sample_bytes"],
        "-z": asked["min_size"] is not None,
        "-Z": asked["max_size"] is not None,
        "-O": asked["obj"] is not None,
        "--symbols-prefix": asked["symbols_prefix"],
    }
    refuse_given(
        {"-f memleak": asked["format_name"] == "memleak"}, "--heap", "that format has sites only"
    )
    refuse_given(chosen, "--heap", "blocks without a record would be taken for older ones")
    if isinstance(target, CommandTarget):
        raise UsageError(
            "--heap is of no use with a command: it is traced from its start, so nothing is older",
            "leave out --heap",
        )
    most_ms = asked["max_pause_ms"]
    pause_ms = ProcessOptions.heap_pause_ms if most_ms is None else most_ms
    return {"heap": HeapLooks(asked["heap"]), "heap_pause_ms": pause_ms}
