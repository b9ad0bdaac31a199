"""What only sections about pairs of functions have, as text."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from leaktrace import units
from leaktrace.model import PairInfo
from leaktrace.printable import printable
from leaktrace.report.layout import wrapped


def unexplained_calls(pair: PairInfo, width: int) -> Iterator[Text]:
    """Calls that can mean that objects count references, or are released in another way."""
    allocate, release = printable(pair.allocate), printable(pair.release)
    if pair.other_releases:
        calls = units.counted(pair.other_releases, "call")
        text = f"{calls} of {release} released what {allocate} has not returned since tracing "
        text += "began, or what was released before: older objects, counted references, or another "
        text += "argument is the HANDLE"
        yield from wrapped("  ", text, width)
    if pair.returned_again:
        calls = units.counted(pair.returned_again, "call")
        text = f"in {calls} {allocate} returned an object that was outstanding: it was released in "
        text += "another way, or its references are counted (each object is shown once)"
        yield from wrapped("  ", text, width)
    if pair.other_releases or pair.returned_again:
        yield Text()
