"""The order in which a tracer closes its parts."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import fields

from leaktrace.process.setup import _Closing


def test_the_order_of_opening_does_not_matter() -> None:
    """The processes with their probes go before the maps and programs that these use; the keeper,
    which guards the command, goes last."""
    for is_reversed in (False, True):
        closed: list[str] = []
        with ExitStack() as stack:
            closing = _Closing.within(stack)
            for name in sorted((field.name for field in fields(closing)), reverse=is_reversed):
                getattr(closing, name).callback(closed.append, name)
        assert closed == [
            "family",
            "lookups",
            "streams",
            "lifecycle",
            "program",
            "processes",
            "command",
            "keeper",
        ]
