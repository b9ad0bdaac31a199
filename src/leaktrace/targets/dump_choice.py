"""Which memory of a process `leaktrace dump` reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from leaktrace import units
from leaktrace.errors import TargetError, UsageError
from leaktrace.printable import printable
from leaktrace.targets.mappings import Mapping

_MOST_LISTED = 8
_BARE_ADDRESS = re.compile(r"[0-9a-f]{5,16}")  # as /proc/PID/maps writes it
# A range with more holes than that was hardly meant, and would fill the disk with zeros.
_MOST_UNMAPPED_BYTES = 1 << 30


@dataclass(frozen=True)
class Part:
    """A range [start, end) of addresses, within one mapping; None: nothing is mapped there."""

    start: int
    end: int
    mapping: Mapping | None


def by_address(mappings: Sequence[Mapping], address: int, size: int | None) -> list[Part]:
    """`size` bytes from an address on; None: the whole mapping that contains it. `mappings` by
    ascending address. Raises TargetError, UsageError."""
    found = next((one for one in mappings if one.start <= address < one.end), None)
    if found is None:
        raise TargetError(f"nothing is mapped at {address:#x}", _beside(mappings, address))
    if size is None:
        return [Part(found.start, found.end, found)]
    parts, at, end = [], address, address + size
    for one in mappings:
        if one.end <= at or one.start >= end:
            continue
        if one.start > at:
            parts.append(Part(at, one.start, None))
            at = one.start
        parts.append(Part(at, min(one.end, end), one))
        at = parts[-1].end
    if at < end:
        parts.append(Part(at, end, None))
    unmapped = sum(part.end - part.start for part in parts if part.mapping is None)
    if unmapped > _MOST_UNMAPPED_BYTES:
        raise UsageError(
            f"nothing is mapped at {units.size(unmapped)} of the {units.size(size)} from "
            f"{address:#x} on",
            f"the mapping there ends after {found.end - address:,} bytes: give a smaller --size",
        )
    return parts


def by_name(
    mappings: Sequence[Mapping], name: str, size: int | None, *, takes_all: bool
) -> list[Part]:
    """The mapping of this path or file name, "[heap]" for example; its first `size` bytes, None:
    all. `takes_all`: if there are several, all of them. Raises TargetError, UsageError."""
    found = [one for one in mappings if one.path == name and name]
    found = found or [one for one in mappings if one.path and _file_name(one) == name]
    if not found:
        raise TargetError(f"no mapping is called {printable(name)}", _similar(mappings, name))
    if len(found) > 1 and not takes_all:
        shown = ", ".join(map(_in_words, found[:_MOST_LISTED]))
        more = f", and {len(found) - _MOST_LISTED} more" if len(found) > _MOST_LISTED else ""
        raise UsageError(
            f"{len(found)} mappings are called {printable(name)}: {shown}{more}",
            "give the address of one of them, or --all",
        )
    parts = [Part(one.start, one.end, one) for one in found]
    if size is not None:
        there = parts[0].end - parts[0].start
        if size > there:
            raise UsageError(
                f"{printable(name)} has {there:,} bytes, fewer than the {size:,} of --size",
                "give a smaller --size, or leave it out for all of it",
            )
        parts = [Part(parts[0].start, min(parts[0].end, parts[0].start + size), found[0])]
    return parts


def _file_name(mapping: Mapping) -> str:
    return mapping.path.rpartition("/")[2]


def _in_words(mapping: Mapping) -> str:
    size = units.size(mapping.end - mapping.start)
    return f"{mapping.start:#x} ({mapping.permissions}, {size})"


def _similar(mappings: Sequence[Mapping], name: str) -> str:
    if _BARE_ADDRESS.fullmatch(name):
        return f"did you mean the address 0x{name}?"
    known = {each: None for one in mappings if one.path for each in (_file_name(one), one.path)}
    meant = get_close_matches(name, known, 1)
    if meant:
        return f"did you mean {printable(meant[0])}? An address begins with 0x"
    return "a path, a file name, [heap], [stack], or an address like 0x55d0c8a2b000"


def _beside(mappings: Sequence[Mapping], address: int) -> str:
    before = [one for one in mappings if one.end <= address]
    after = [one for one in mappings if one.start > address]
    known = [
        *([f"the mapping before it ends at {before[-1].end:#x}"] if before else []),
        *([f"the next one begins at {after[0].start:#x}"] if after else []),
    ]
    return "; ".join(known)
