"""What may be in the place of any value of a file that somebody else has written."""

from __future__ import annotations

from typing import Any

JUNK: list[Any] = [
    None,
    True,
    -1,
    0,
    1 << 63,
    1 << 70,
    -(1 << 70),
    1.5,
    1e308,
    "",
    "x" * 100_000,
    "\x1b]0;owned\x07\n\u202e",
    "\ud800",
    "0x10",
    "leak",
    [],
    {},
    [None],
    [{}],
    [[[]]],
    {"a": {"b": []}},
]


def places(value: Any) -> list[tuple[Any, Any]]:
    """All values in a JSON value, as the container and the key of each."""
    found: list[tuple[Any, Any]] = []
    keys = value if isinstance(value, dict) else range(len(value)) if type(value) is list else ()
    for key in keys:
        found.append((value, key))
        found += places(value[key])
    return found
