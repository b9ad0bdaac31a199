"""The version of Go that an object was built with, from the build information in it.

It is there in every program and library, stripped or not. Source: debug/buildinfo/buildinfo.go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from leaktrace.elf.headers import PF_W
from leaktrace.elf.object import ElfObject

_MAGIC = b"\xff Go buildinf:"
_HEADER_BYTES = 32
_FLAGS_AT, _INLINE_STRINGS = 15, 2  # since Go 1.18; before, there were addresses of strings
_MAX_SEARCHED_BYTES = 1 << 20  # as Go itself searches
_MAX_VERSION_BYTES = 200
_NUMBERS = re.compile(r"go1\.(\d{1,4})(?!\d)")


@dataclass(frozen=True)
class GoVersion:
    """`text` as Go writes it: "go1.22.3", "go1.27.1 X:nodwarf5", "devel go1.28-0c2d1e7 ...";
    "" before Go 1.18. `minor` is None where the text has no number."""

    text: str
    minor: int | None

    @classmethod
    def from_text(cls, text: str) -> GoVersion:
        found = _NUMBERS.search(text)
        return cls(text, int(found[1]) if found else None)


BEFORE_1_18 = GoVersion("", None)


def read_version(elf: ElfObject) -> GoVersion | None:
    """The version; None in an object that has no build information of Go, or a damaged one.
    Raises ObjectFileError."""
    named = elf.section(".go.buildinfo")
    if named is not None:
        return version_in(named[0][:_MAX_SEARCHED_BYTES])
    for segment in elf.load_segments:
        if segment.flags & PF_W and segment.file_size:
            data = elf.read(segment.offset, min(segment.file_size, _MAX_SEARCHED_BYTES))
            found = version_in(data)
            if found is not None:
                return found
    return None


def version_in(data: bytes) -> GoVersion | None:
    """The version in data that may begin with something else."""
    at = data.find(_MAGIC)
    if at < 0 or at + _HEADER_BYTES > len(data):
        return None
    if not data[at + _FLAGS_AT] & _INLINE_STRINGS:
        return BEFORE_1_18
    size = shift = 0
    at += _HEADER_BYTES
    for byte in data[at : at + 3]:
        at += 1
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    text = data[at : at + size]
    if not 0 < size <= _MAX_VERSION_BYTES or len(text) < size:
        return None
    return GoVersion.from_text(text.decode("utf-8", "surrogateescape"))
