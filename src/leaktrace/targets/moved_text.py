"""Programs that have moved their code into memory of no file, in the place where it was.

Code on huge pages spares the processor look-ups of addresses, and few file systems have those. So
some programs copy their text to anonymous memory and put that where the file was mapped: all of it
(ClickHouse, node --use-largepages=on) or the part that whole huge pages fit into (hhvm). It is the
file's code still: its unwind information, its symbols and its lines are right.

What remains of the file around such memory says which file it was and where it lies: other segments
are mapped still. Whether it is a copy of that place, the bytes say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from leaktrace.elf.headers import PF_X, LoadSegment
from leaktrace.errors import ObjectFileError
from leaktrace.targets.mapped_files import MappedFiles
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory import ProcessMemory

_PAGE_BYTES = 4096
_SAMPLES = 48  # places that are compared
_SAMPLE_BYTES = 128
_MOST_REMEMBERED = 10_000
_TELLING_VALUES = 16  # different bytes, so that a sample is not just padding
_BREAKPOINT = 0xCC  # was copied with the code, or a debugger's
# What stands for a path where memory has an inode but no file that code comes from.
_NO_FILE = ("/anon_hugepage", "/memfd:", "/dev/zero", "/dev/shm/", "/SYSV")


class _Place(NamedTuple):
    """Pages of a process, start <= address < end; the offset of the first one in the file, and how
    many bytes the file has for them."""

    start: int
    end: int
    offset: int
    size: int


class MovedText:
    """Recognises the moved text of one process."""

    def __init__(self, pid: int, files: MappedFiles) -> None:
        """`files` opens what the process has mapped."""
        self._pid = pid
        self._files = files
        self._known: dict[tuple[Mapping, Mapping], tuple[Mapping, ...]] = {}
        self._segments: dict[Mapping, tuple[LoadSegment, ...]] = {}  # by a mapping of the file

    def recognised(self, mappings: Sequence[Mapping]) -> tuple[Mapping, ...]:
        """The mappings with memory that is a copy of a file's code as mappings of that file. What
        can't be read or isn't the same stays what it is. Never raises."""
        if len(self._known) + len(self._segments) > _MOST_REMEMBERED:
            self._known, self._segments = {}, {}
        found: list[Mapping] = []
        for index, mapping in enumerate(mappings):
            if not mapping.is_executable or _is_of_file(mapping):
                found.append(mapping)
                continue
            found += self._parts(mapping, _neighbours(mappings, index))
        return tuple(found)

    def _parts(self, mapping: Mapping, neighbours: Iterator[Mapping]) -> tuple[Mapping, ...]:
        """The mapping in parts, of which one at least is a file's; as it is where none is."""
        for neighbour in neighbours:
            if (mapping, neighbour) not in self._known:
                parts = self._compare(mapping, neighbour)
                if parts is None:
                    continue  # it may be in the making
                self._known[mapping, neighbour] = parts
            if self._known[mapping, neighbour]:
                return self._known[mapping, neighbour]
        return (mapping,)

    def _compare(self, mapping: Mapping, neighbour: Mapping) -> tuple[Mapping, ...] | None:
        """() where the mapping doesn't lie in code of that file; None where it does and isn't the
        same."""
        places = list(_places(mapping, neighbour, self._segments_of(neighbour)))
        with suppress(ObjectFileError, OSError):
            for place in places:
                if self._is_copy(place, neighbour):
                    return tuple(_cut(mapping, neighbour, place))
        return None if places else ()

    def _segments_of(self, neighbour: Mapping) -> tuple[LoadSegment, ...]:
        if neighbour not in self._segments:
            self._segments[neighbour] = ()
            with (
                suppress(ObjectFileError),
                self._files.elf(neighbour) as elf,
            ):
                self._segments[neighbour] = elf.load_segments
        return self._segments[neighbour]

    def _is_copy(self, place: _Place, neighbour: Mapping) -> bool:
        """Whether the bytes there are those of the file, as far as samples tell. Raises
        ObjectFileError or OSError where they can't be read."""
        with (
            self._files.elf(neighbour) as elf,
            ProcessMemory(self._pid) as memory,
        ):
            step = max(place.size // _SAMPLES, _SAMPLE_BYTES)
            distances = [*range(0, place.size, step), max(place.size - _SAMPLE_BYTES, 0)]
            telling = 0
            for distance in distances:
                count = min(_SAMPLE_BYTES, place.size - distance)
                original = elf.read(place.offset + distance, count)
                now = memory.read(place.start + distance, count)
                if len(now) != count:
                    return False
                if any(a not in (b, _BREAKPOINT) for a, b in zip(now, original, strict=True)):
                    return False
                telling += len(set(original)) >= _TELLING_VALUES
            return 2 * telling > len(distances)


def _is_of_file(mapping: Mapping) -> bool:
    if mapping.path.startswith("["):
        return not mapping.path.startswith("[anon:")  # PR_SET_VMA_ANON_NAME
    return mapping.is_file and not mapping.path.startswith(_NO_FILE)


def _neighbours(mappings: Sequence[Mapping], index: int) -> Iterator[Mapping]:
    """The nearest mappings of files below and above."""
    for side in (mappings[index - 1 :: -1] if index else (), mappings[index + 1 :]):
        for mapping in side:
            if mapping.is_file and _is_of_file(mapping):
                yield mapping
                break


def _biases(segments: Sequence[LoadSegment], mapping: Mapping) -> Iterator[int]:
    """Where the file may lie, going by one of its mappings: what is to be added to its virtual
    addresses. Two, where segments share a page of the file."""
    for segment in segments:
        if _page(segment.offset) <= mapping.offset < segment.offset + segment.file_size:
            yield mapping.start - (segment.vaddr - segment.offset + mapping.offset)


def _places(
    mapping: Mapping, neighbour: Mapping, segments: Sequence[LoadSegment]
) -> Iterator[_Place]:
    """Where in a mapping the code of the neighbour's file would lie."""
    for bias in _biases(segments, neighbour):
        for segment in segments:
            if not segment.flags & PF_X:
                continue
            start = max(mapping.start, bias + _page(segment.vaddr))
            code_end = bias + segment.vaddr + segment.file_size
            end = min(mapping.end, _page(code_end + _PAGE_BYTES - 1))
            offset = start - bias - segment.vaddr + segment.offset
            size = min(end, code_end) - start
            if size > 0 and offset >= 0:
                yield _Place(start, end, offset, size)


def _cut(mapping: Mapping, file: Mapping, place: _Place) -> Iterator[Mapping]:
    if mapping.start < place.start:
        yield replace(mapping, end=place.start)
    yield replace(
        mapping,
        start=place.start,
        end=place.end,
        offset=place.offset,
        device=file.device,
        inode=file.inode,
        path=file.path,
        deleted=file.deleted,
        file_at=(file.start, file.end),
    )
    if place.end < mapping.end:
        yield replace(mapping, start=place.end, offset=mapping.offset + place.end - mapping.start)


def _page(address: int) -> int:
    return address - address % _PAGE_BYTES
