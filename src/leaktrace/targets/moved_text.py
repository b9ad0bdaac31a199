"""Recognises code that a program has moved from its file's mapping to anonymous memory.

Code on huge pages needs fewer TLB entries, and few file systems support huge pages. So some
programs copy their text to anonymous memory and map that in place of the file: the whole text
(ClickHouse, node --use-largepages=on), or the part that fills whole huge pages (hhvm). It is still
the file's code: the file's unwind information, symbols and lines apply.

The other segments of the file are still mapped around such memory. They show which file it was and
where it is loaded. Comparing bytes shows whether the memory is a copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from leaktrace.arch.x86_64 import INT3, PAGE_BYTES
from leaktrace.elf.headers import PF_X, LoadSegment
from leaktrace.errors import ObjectFileError
from leaktrace.targets.mapped_files import MappedFiles
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory import ProcessMemory

_SAMPLES = 48  # how many pieces are compared
_SAMPLE_BYTES = 128
_MAX_REMEMBERED = 10_000
_DISTINCT_BYTES = 16  # a sample with fewer different bytes may be only padding
# How paths begin of memory that has an inode but doesn't map a file with code.
_NO_FILE = ("/anon_hugepage", "/memfd:", "/dev/zero", "/dev/shm/", "/SYSV")


class _Place(NamedTuple):
    """Pages of a process, start <= address < end; the offset of the first one in the file, and how
    many bytes of the file they contain."""

    start: int
    end: int
    offset: int
    size: int


class MovedText:
    """Recognises the moved text of one process."""

    def __init__(self, pid: int, files: MappedFiles) -> None:
        """`files` are those of the same process."""
        self._pid = pid
        self._files = files
        self._known: dict[tuple[Mapping, Mapping], tuple[Mapping, ...]] = {}
        self._segments: dict[Mapping, tuple[LoadSegment, ...]] = {}  # by a mapping of the file

    def recognise(self, mappings: Sequence[Mapping]) -> tuple[Mapping, ...]:
        """Replace mappings that contain a copy of a file's code by mappings of that file. Memory
        that differs or can't be read stays as it is. Never raises."""
        if len(self._known) + len(self._segments) > _MAX_REMEMBERED:
            self._known, self._segments = {}, {}
        found: list[Mapping] = []
        for index, mapping in enumerate(mappings):
            if not mapping.is_executable or _is_of_file(mapping):
                found.append(mapping)
                continue
            found += self._parts(mapping, _neighbours(mappings, index))
        return tuple(found)

    def _parts(self, mapping: Mapping, neighbours: Iterator[Mapping]) -> tuple[Mapping, ...]:
        """The mapping in parts, at least one of which is a file's; the mapping as it is if there is
        no such part."""
        for neighbour in neighbours:
            if (mapping, neighbour) not in self._known:
                parts = self._compare(mapping, neighbour)
                if parts is None:
                    continue  # the copy may not be complete yet
                self._known[mapping, neighbour] = parts
            if self._known[mapping, neighbour]:
                return self._known[mapping, neighbour]
        return (mapping,)

    def _compare(self, mapping: Mapping, neighbour: Mapping) -> tuple[Mapping, ...] | None:
        """The parts of a mapping that is a copy. () if it is not where the file's code would be;
        None if it is, and differs."""
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
        """Whether samples of the memory are equal to the file. Raises ObjectFileError or OSError
        when they can't be read."""
        with (
            self._files.elf(neighbour) as elf,
            ProcessMemory(self._pid) as memory,
        ):
            step = max(place.size // _SAMPLES, _SAMPLE_BYTES)
            distances = [*range(0, place.size, step), max(place.size - _SAMPLE_BYTES, 0)]
            meaningful = 0
            for distance in distances:
                count = min(_SAMPLE_BYTES, place.size - distance)
                original = elf.read(place.offset + distance, count)
                now = memory.read(place.start + distance, count)
                if len(now) != count:
                    return False
                if any(a not in (b, INT3) for a, b in zip(now, original, strict=True)):
                    return False
                meaningful += len(set(original)) >= _DISTINCT_BYTES
            return 2 * meaningful > len(distances)


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
    """What may have to be added to the file's virtual addresses, judging by one of its mappings.
    There are two candidates if segments share a page of the file."""
    for segment in segments:
        if _page(segment.offset) <= mapping.offset < segment.offset + segment.file_size:
            yield mapping.start - (segment.vaddr - segment.offset + mapping.offset)


def _places(
    mapping: Mapping, neighbour: Mapping, segments: Sequence[LoadSegment]
) -> Iterator[_Place]:
    """Where in a mapping the code of the neighbour's file would be."""
    for bias in _biases(segments, neighbour):
        for segment in segments:
            if not segment.flags & PF_X:
                continue
            start = max(mapping.start, bias + _page(segment.vaddr))
            code_end = bias + segment.vaddr + segment.file_size
            end = min(mapping.end, _page(code_end + PAGE_BYTES - 1))
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
    return address - address % PAGE_BYTES
