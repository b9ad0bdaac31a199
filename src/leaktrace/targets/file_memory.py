"""Which memory is that of mapped files, and of the data behind them that they don't fill."""

from __future__ import annotations

from collections.abc import Sequence

from leaktrace.targets.mappings import Mapping


def of_files(mappings: Sequence[Mapping]) -> list[tuple[int, int]]:
    """Where files are mapped, and the anonymous memory directly behind writable data of one: its
    .bss. Ranges [start, end), ascending as `mappings` are."""
    found: list[tuple[int, int]] = []
    data_end = 0
    for one in mappings:
        is_writable = "w" in one.permissions
        if one.is_file or (not one.path and one.start == data_end and is_writable):
            found.append((one.start, one.end))
        data_end = one.end if one.is_file and is_writable else 0
    return found


def writable_data(mappings: Sequence[Mapping]) -> list[tuple[int, int]]:
    """Private writable data of files, each with its .bss, as one range: where a library has its
    variables."""
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
