"""An object's unwind table: rows sorted by pc, and a page index that shortens the search.

`compile_object` makes a table from an ELF file; `read_source` is its first part, by which the cache
recognizes a table that it has.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi.process import CODE_PAGE_SHIFT, Rule, SavedRbp
from leaktrace.arch.machines import is_unwound_by_tables
from leaktrace.arch.x86_64 import MAX_OBJECT_BYTES, USER_SPACE_END
from leaktrace.elf.headers import PF_X
from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.unwind.entries import (
    MAX_SECTION_BYTES,
    FrameSection,
    Functions,
    SectionKind,
    Skipped,
    read_functions,
)
from leaktrace.unwind.go_rows import GoCode, compile_go, read_go_code
from leaktrace.unwind.rows import PC_SHIFT, NoRule, Row, Rows, unpack, unpack_all

PAGE_SHIFT = CODE_PAGE_SHIFT  # a page of code is 256 bytes: at most 257 rows to search, nine steps
# The page index of an object that claims more could be larger than the object.
MAX_EXTENT_BYTES = MAX_OBJECT_BYTES

# Increase it when the same sections give another table: a cached one of another version isn't
# used.
TABLE_VERSION = 3

_ROWS_AT_ONCE = 1 << 20  # assembled at a time, which bounds the memory that it takes

_EH_FRAME_HEADER_BYTES = 8
_EH_FRAME_HEADER_VERSION = 1
_PC_RELATIVE_SDATA4 = 0x1B


class CodeSegment(NamedTuple):
    """An executable PT_LOAD segment: file offset, virtual address, bytes in the file."""

    offset: int
    vaddr: int
    size: int


@dataclass(frozen=True)
class UnwindSource:
    """What a table is made from: the frame sections, and where the code is."""

    shown: str  # name of the file in messages
    sections: tuple[FrameSection, ...]  # where two describe a function, the first one counts
    base: int  # lowest virtual address of the object: what row pcs are relative to
    segments: tuple[CodeSegment, ...]
    go: GoCode | None = None  # counts where a section describes the same function

    @property
    def size_bytes(self) -> int:
        in_sections = sum(len(section.data) for section in self.sections)
        return in_sections + (self.go.functions.size_bytes if self.go else 0)

    @cached_property
    def digest(self) -> str:
        """A hash in hexadecimal; two sources with the same one have the same table."""
        state = hashlib.blake2b(digest_size=20)
        state.update(struct.pack("<IQQ", TABLE_VERSION, self.base, len(self.segments)))
        for segment in self.segments:
            state.update(struct.pack("<QQQ", *segment))
        for section in self.sections:
            head = (section.kind is SectionKind.EH_FRAME, section.address, len(section.data))
            state.update(struct.pack("<?QQ", *head))
            state.update(section.data)
        if self.go:
            self.go.add_to(state)
        return state.hexdigest()


@dataclass(frozen=True)
class UnwindTable:
    """How to unwind from any pc of one object.

    `rows` ascend strictly by pc, relative to `base`. `pages[k]` is the index of the first row whose
    pc is at least k << PAGE_SHIFT; there is one more entry than pages, the number of rows. So the
    row in force at rel is among rows[pages[k] - 1 : pages[k + 1]] with k = rel >> PAGE_SHIFT.
    """

    rows: Rows
    pages: NDArray[np.uint32]
    base: int
    segments: tuple[CodeSegment, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)  # FDEs left out, by reason

    @property
    def page_count(self) -> int:
        return len(self.pages) - 1

    def lookup(self, vaddr: int) -> Row | None:
        """The row in force at a virtual address of the object, None where there is none."""
        rel = vaddr - self.base
        if not 0 <= rel < self.page_count << PAGE_SHIFT:
            return None
        key = np.uint64((rel + 1) << PC_SHIFT)
        index = int(np.searchsorted(self.rows, key, side="left")) - 1
        return unpack(int(self.rows[index])) if index >= 0 else None

    @cached_property
    def inexpressible(self) -> Mapping[str, int]:
        """Rows without a rule, by reason; a walk that meets one ends there."""
        columns = unpack_all(self.rows)
        none = columns.rule == Rule.RULE_NONE
        counts = {
            reason.name.lower(): int(np.count_nonzero(none & (columns.cfa_offset == reason)))
            for reason in NoRule
            if reason is not NoRule.NO_ENTRY
        }
        counts["saved_rbp"] = int(np.count_nonzero(columns.saved_rbp == SavedRbp.LOST))
        return {reason: count for reason, count in counts.items() if count}


def compile_object(elf: ElfObject) -> UnwindTable:
    """The unwind table of an executable or shared object.

    Raises ObjectFileError when it is for another machine, damaged or without unwind information.
    """
    return compile_source(read_source(elf))


def read_source(elf: ElfObject) -> UnwindSource:
    """The parts of an object that its unwind table is made from.

    .eh_frame comes from the section or, where sections were stripped, by PT_GNU_EH_FRAME, as the
    C++ runtime finds it; .debug_frame fills in what was compiled without unwind tables. Raises
    ObjectFileError as `compile_object` does.
    """
    if not is_unwound_by_tables(elf.machine) or elf.bits != 64 or elf.byte_order != "<":
        raise ObjectFileError(
            f"{elf.shown} is for {elf.machine} ({elf.bits}-bit), which has no unwind tables here",
            "stacks through its code are found by frame pointers",
        )
    segments = tuple(
        CodeSegment(s.offset, s.vaddr, s.file_size)
        for s in sorted(elf.load_segments, key=lambda s: s.vaddr)
        if s.flags & PF_X and s.file_size
    )
    if not segments:
        raise ObjectFileError(f"{elf.shown} has no executable segment")
    base = min(s.vaddr for s in elf.load_segments)
    if base >= USER_SPACE_END:
        raise ObjectFileError(f"{elf.shown} can't be loaded at {base:#x}")
    eh_frame = _section(elf, SectionKind.EH_FRAME) or _eh_frame_by_segment(elf)
    debug_frame = _section(elf, SectionKind.DEBUG_FRAME)
    sections = tuple(section for section in (eh_frame, debug_frame) if section)
    go = read_go_code(elf)
    if not sections and go is None:
        raise _no_unwind_information(elf.shown)
    return UnwindSource(
        shown=elf.shown,
        sections=sections,
        base=base,
        segments=segments,
        go=go,
    )


def compile_source(source: UnwindSource, check: Callable[[], None] = lambda: None) -> UnwindTable:
    """The table that `source` describes. `check` is called now and then.

    Raises ObjectFileError when it describes no function, and what `check` raises.
    """
    described: list[_Described] = []
    skipped: Counter[str] = Counter()
    if source.go:
        described += _described_go(source.go, source, check)
    for section in source.sections:
        functions = read_functions(section, check)
        skipped.update(functions.skipped)
        found = _locate(functions, source, skipped)
        for other in described:
            found = found.outside(other)
        if found.begins.size:
            described.append(found)
    if not described:
        raise _no_unwind_information(source.shown)
    return index_rows(source, _assemble(_joined(described), check), skipped)


def index_rows(source: UnwindSource, rows: Rows, skipped: Mapping[str, int]) -> UnwindTable:
    """The table with these rows, at least one, ascending strictly by pc."""
    last_pc = int(rows[-1]) >> PC_SHIFT
    return UnwindTable(
        rows=rows,
        pages=_page_index(rows, (last_pc >> PAGE_SHIFT) + 1),
        base=source.base,
        segments=source.segments,
        skipped=dict(skipped),
    )


def with_rows(table: UnwindTable, rows: Rows) -> UnwindTable:
    """The table with other rows: at least one, ascending strictly by pc."""
    last_pc = int(rows[-1]) >> PC_SHIFT
    return replace(table, rows=rows, pages=_page_index(rows, (last_pc >> PAGE_SHIFT) + 1))


def frame_bytes(elf: ElfObject) -> int:
    """The size of an object's unwind information in bytes. Where sections were stripped, an upper
    bound: its read-only segments."""
    kinds = {kind.value for kind in SectionKind}
    in_sections = sum(section.size for section in elf.sections if section.name in kinds)
    if in_sections or elf.eh_frame_header() is None:
        return in_sections
    return sum(segment.file_size for segment in elf.load_segments if not segment.flags & PF_X)


def _no_unwind_information(shown: str) -> ObjectFileError:
    return ObjectFileError(
        f"{shown} has no unwind information",
        "stacks through its code are found by frame pointers",
    )


def _section(elf: ElfObject, kind: SectionKind) -> FrameSection | None:
    try:
        found = elf.section(kind.value)
    except ObjectFileError:  # a damaged section table: the segments may still be valid
        return None
    if found is None or len(found[0]) > MAX_SECTION_BYTES or not found[0]:
        return None
    data, address = found
    return FrameSection(kind, data, address)


def _eh_frame_by_segment(elf: ElfObject) -> FrameSection | None:
    """.eh_frame through .eh_frame_hdr (LSB Core, "Exception Frame Header").

    The header says where .eh_frame begins; an entry of length zero ends it.
    """
    header = elf.eh_frame_header()
    if header is None or header.size < _EH_FRAME_HEADER_BYTES:
        return None
    version, encoding, _, _, distance = struct.unpack(
        "<BBBBi", elf.read(header.offset, _EH_FRAME_HEADER_BYTES)
    )
    if version != _EH_FRAME_HEADER_VERSION or encoding != _PC_RELATIVE_SDATA4:
        return None
    address = header.vaddr + 4 + distance
    for segment in elf.load_segments:
        if segment.vaddr <= address < segment.vaddr + segment.file_size:
            offset = segment.offset + address - segment.vaddr
            in_file = min(segment.offset + segment.file_size, elf.file_size) - offset
            if in_file > 0:
                size = min(in_file, MAX_SECTION_BYTES)
                return FrameSection(SectionKind.EH_FRAME, elf.read(offset, size), address)
    return None


@dataclass(frozen=True)
class _Described:
    """Functions in the code, as arrays; addresses are relative to the object's base.

    The rules of function i are `rules[j]` from `offsets[j]` on, for j from `firsts[i]` on,
    `counts[i]` of them.
    """

    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    firsts: NDArray[np.int64]
    counts: NDArray[np.int64]
    offsets: NDArray[np.uint32]
    rules: NDArray[np.uint32]

    def take(self, chosen: NDArray[np.intp] | NDArray[np.bool_] | slice) -> _Described:
        """The functions that `chosen` selects or orders."""
        return _Described(
            self.begins[chosen],
            self.ends[chosen],
            self.firsts[chosen],
            self.counts[chosen],
            self.offsets,
            self.rules,
        )

    def outside(self, other: _Described) -> _Described:
        """The functions that don't begin in any other."""
        order = np.argsort(other.begins)
        before = np.searchsorted(other.begins[order], self.begins, side="right")
        ends = np.concatenate(([-1], np.maximum.accumulate(other.ends[order])))
        return self.take(ends[before] <= self.begins)


def _locate(functions: Functions, source: UnwindSource, skipped: Counter[str]) -> _Described:
    """The functions in executable segments, cut where the segment ends.

    Linkers leave FDEs of functions that they discarded in .debug_frame, at or near address 0.
    """
    begins = np.array(functions.begins, dtype=np.int64)
    sizes = np.array(functions.sizes, dtype=np.int64)
    programs = np.array(functions.program_of, dtype=np.int64)
    starts = np.array(functions.starts, dtype=np.int64)

    limit = source.base + MAX_EXTENT_BYTES
    usable = [s for s in source.segments if s.vaddr + s.size <= limit]
    segment_begins = np.array([s.vaddr for s in usable], dtype=np.int64)
    segment_ends = np.array([-1, *(s.vaddr + s.size for s in usable)], dtype=np.int64)
    within = segment_ends[np.searchsorted(segment_begins, begins, side="right")]
    inside = (begins < within) & (begins != 0)
    skipped_count = int(inside.size - np.count_nonzero(inside))
    if skipped_count:
        skipped[Skipped.OUTSIDE_CODE] += skipped_count
    return _Described(
        begins=begins - source.base,
        ends=np.minimum(begins + sizes, within) - source.base,
        firsts=starts[programs],
        counts=starts[programs + 1] - starts[programs],
        offsets=np.frombuffer(functions.offsets, dtype=np.uint32),
        rules=np.frombuffer(functions.rules, dtype=np.uint32),
    ).take(inside)


def _described_go(
    go: GoCode, source: UnwindSource, check: Callable[[], None]
) -> Iterator[_Described]:
    """The functions of the Go runtime's table, if the object isn't too large."""
    if go.functions.starts[-1] > source.base + MAX_EXTENT_BYTES:
        return
    made = compile_go(go, check)
    yield _Described(
        begins=go.functions.starts[:-1] - source.base,
        ends=go.functions.starts[1:] - source.base,
        firsts=np.array(made.firsts, dtype=np.int64),
        counts=np.array(made.counts, dtype=np.int64),
        offsets=np.array(made.offsets, dtype=np.uint32),
        rules=np.array(made.rules, dtype=np.uint32),
    )


def _joined(parts: list[_Described]) -> _Described:
    """The functions of several sections together."""
    if len(parts) == 1:
        return parts[0]
    shifts = np.cumsum([0, *(len(part.offsets) for part in parts)])
    return _Described(
        begins=np.concatenate([part.begins for part in parts]),
        ends=np.concatenate([part.ends for part in parts]),
        firsts=np.concatenate(
            [part.firsts + shift for part, shift in zip(parts, shifts, strict=False)]
        ),
        counts=np.concatenate([part.counts for part in parts]),
        offsets=np.concatenate([part.offsets for part in parts]),
        rules=np.concatenate([part.rules for part in parts]),
    )


def _assemble(functions: _Described, check: Callable[[], None]) -> Rows:
    """The rows of all functions, sorted, with a RULE_NONE where a gap begins."""
    functions = functions.take(np.argsort(functions.begins, kind="stable"))
    next_begins = np.append(functions.begins[1:], np.iinfo(np.int64).max)
    ends = np.minimum(functions.ends, next_begins)

    before = np.cumsum(functions.counts)
    steps = np.arange(_ROWS_AT_ONCE, int(before[-1]), _ROWS_AT_ONCE)
    cuts = sorted({0, *np.searchsorted(before, steps).tolist(), len(before)})
    parts: list[Rows] = []
    last_rule: np.uint32 | None = None
    for start, end in pairwise(cuts):
        check()
        part = slice(start, end)
        rows = _rows_of(functions.take(part), ends[part], next_begins[part])
        if not rows.size:  # all of them begin at the same address
            continue
        rules = rows.astype(np.uint32)
        differs = np.append(True, rules[1:] != rules[:-1])
        differs[0] = last_rule is None or rules[0] != last_rule
        parts.append(rows[differs])
        last_rule = rules[-1]
    return np.concatenate(parts)


def _rows_of(
    functions: _Described, ends: NDArray[np.int64], next_begins: NDArray[np.int64]
) -> Rows:
    """The rows of some functions in order."""
    counts = functions.counts
    total = int(counts.sum())
    first_outputs = np.cumsum(counts) - counts
    index = np.arange(total) + np.repeat(functions.firsts - first_outputs, counts)
    pcs = np.repeat(functions.begins, counts) + functions.offsets[index]
    kept = pcs < np.repeat(ends, counts)
    pcs, index = pcs[kept], index[kept]
    rows = pcs.astype(np.uint64) << np.uint64(PC_SHIFT) | functions.rules[index]

    gaps = ends[ends < next_begins]
    with_gaps: Rows = np.insert(
        rows, np.searchsorted(pcs, gaps), gaps.astype(np.uint64) << np.uint64(PC_SHIFT)
    )
    return with_gaps


def _page_index(rows: Rows, page_count: int) -> NDArray[np.uint32]:
    page_starts = np.arange(page_count + 1, dtype=np.uint64) << np.uint64(PC_SHIFT + PAGE_SHIFT)
    return np.searchsorted(rows, page_starts).astype(np.uint32)
