"""The code of an object's releasing functions: where stacks lead through a release.

Finding it takes hundredths of a second in glibc, in which no event is taken in. So it is kept on
disk: a file is found by a hash of the whole object, as those of point_cache.py are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from leaktrace.arch.machines import is_decoded
from leaktrace.cache.files import FileCache
from leaktrace.elf.object import ElfObject
from leaktrace.process.probes.code.flow import CodeReader
from leaktrace.process.probes.point_cache import MAX_HASHED_BYTES, digest_of

# Increase it when the same functions are found to have other code.
RELEASES_VERSION = 1

_LIMIT_BYTES = 1 << 20


class ReleaseCode(NamedTuple):
    """The functions' ranges of virtual addresses, and the return addresses of the calls in them,
    also of those in parts that the compiler moved elsewhere."""

    ranges: tuple[tuple[int, int], ...] = ()
    returns: frozenset[int] = frozenset()

    def holds(self, return_address: int) -> bool:
        """Whether the call before this virtual address is in this code."""
        return return_address in self.returns or any(
            start <= return_address - 1 < end for start, end in self.ranges
        )


def release_code(elf: ElfObject, entries: Sequence[int], home: Path | None) -> ReleaseCode:
    """The code of the functions with these entries; `home` as for `FileCache`.

    Raises ObjectFileError and UnfollowableError.
    """
    if not entries or not is_decoded(elf.machine):
        return ReleaseCode()
    if elf.file_size > MAX_HASHED_BYTES:
        return _find(elf, entries)
    files = FileCache(home, "releases", ".json", _LIMIT_BYTES)
    name = digest_of(elf, [RELEASES_VERSION, sorted(entries)])
    data = files.read(name)
    known = None if data is None else _decode(data)
    if known is not None:
        return known
    found = _find(elf, entries)
    files.write(name, json.dumps([found.ranges, sorted(found.returns)]).encode())
    return found


def _find(elf: ElfObject, entries: Sequence[int]) -> ReleaseCode:
    reader = CodeReader(elf, ())
    extents = [reader.extent(entry) for entry in entries]
    return ReleaseCode(
        tuple((extent.start, extent.end) for extent in extents if extent is not None),
        frozenset().union(*(reader.returns_in(entry) for entry in entries)),
    )


def _decode(data: bytes) -> ReleaseCode | None:
    """None unless `data` is complete and valid."""
    try:
        ranges, returns = json.loads(data)
        return ReleaseCode(
            tuple((int(start), int(end)) for start, end in ranges),
            frozenset(int(one) for one in returns),
        )
    except (ValueError, TypeError):
        return None
