"""Where an allocator may have its variables."""

from __future__ import annotations

from collections.abc import Sequence

from leaktrace.targets.mappings import Mapping


def writable_data(mappings: Sequence[Mapping]) -> list[tuple[int, int]]:
    """Writable data of files, with the memory behind it that the file doesn't fill (bss):
    [start, end)."""
    found: list[tuple[int, int]] = []
    for one in mappings:
        if not one.permissions.startswith("rw") or not one.permissions.endswith("p"):
            continue
        is_behind = bool(found) and found[-1][1] == one.start
        if is_behind and (one.is_file or one.path == ""):
            found[-1] = (found[-1][0], one.end)
        elif one.is_file:
            found.append((one.start, one.end))
    return found
