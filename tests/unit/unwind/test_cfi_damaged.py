"""Damaged unwind information: any bytes give a sound table or none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from frame_sections import (
    BASE,
    CODE,
    PLT_EXPRESSION,
    RBP,
    REMEMBER,
    RESTORE_STATE,
    SECTION,
    Section,
    advance,
    breg,
    compiled,
    def_cfa,
    def_cfa_expression,
    def_cfa_offset,
    expression_of,
    offset_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from leaktrace.errors import ObjectFileError
from leaktrace.unwind.entries import FrameSection, SectionKind
from leaktrace.unwind.rows import describe


def plausible_sections() -> Iterator[Section]:
    """A little of everything, to be damaged."""
    prologue = advance(1) + def_cfa_offset(16) + offset_of(RBP, 2) + advance(3) + def_cfa(RBP, 16)
    for section in (Section(), Section(extended=4), Section(extended=8)):
        cie = section.cie()
        section.fde(cie, prologue + REMEMBER + advance(9) + RESTORE_STATE)
        section.fde(cie, def_cfa_expression(PLT_EXPRESSION), begin=CODE + 0x200)
        other = section.cie(augmentation=b"zPLR", augmentation_data=b"\x9b\0\0\0\0\x1b\x1b")
        section.fde(other, b"\x07\x10", begin=CODE + 0x400, augmentation_data=bytes(4))
        yield section.end()
    for extended in (0, 8):
        section = Section(SectionKind.DEBUG_FRAME, extended=extended)
        cie = section.cie(augmentation=b"")
        section.fde(cie, prologue, encoding=0, augmentation_data=None)
        code = expression_of(RBP, breg(RBP, 0))
        section.fde(cie, code, begin=CODE + 0x200, encoding=0, augmentation_data=None)
        yield section


CORPUS = [section.frames for section in plausible_sections()]


def check_sound(section: FrameSection) -> None:
    """Compiling either reports that there is nothing, or yields a consistent table."""
    try:
        table = compiled(section)
    except ObjectFileError:
        return
    pcs = [row >> 32 for row in table.rows.tolist()]
    assert pcs == sorted(set(pcs))
    assert pcs[0] >= CODE - BASE
    assert pcs[-1] <= SECTION - BASE
    assert table.pages[-1] == len(table.rows)
    assert table.pages.tolist() == sorted(table.pages.tolist())
    assert len(table.rows) <= len(section.data) + 16
    assert [describe(row) for row in table.rows.tolist()]


def test_the_corpus_is_sound() -> None:
    for section in CORPUS:
        assert len(compiled(section).rows) >= 4
        check_sound(section)


@pytest.mark.parametrize("section", CORPUS, ids=range(len(CORPUS)))
def test_every_byte_damaged_in_turn(section: FrameSection) -> None:
    for at in range(len(section.data)):
        for value in (0x00, 0x7F, 0x80, 0xFF, section.data[at] ^ 1):
            data = bytearray(section.data)
            data[at] = value
            check_sound(FrameSection(section.kind, bytes(data), section.address))


@pytest.mark.parametrize("section", CORPUS, ids=range(len(CORPUS)))
def test_cut_at_every_byte(section: FrameSection) -> None:
    for size in range(len(section.data)):
        check_sound(FrameSection(section.kind, section.data[:size], section.address))


@settings(max_examples=300, deadline=None)
@given(
    section=st.sampled_from(CORPUS),
    changes=st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=6)), max_size=6),
    address=st.sampled_from([SECTION, 0, (1 << 63) - 1, (1 << 64) - 1]),
)
def test_any_bytes_changed(
    section: FrameSection, changes: list[tuple[int, bytes]], address: int
) -> None:
    data = bytearray(section.data)
    for at, replacement in changes:
        data[at % len(data) : at % len(data) + len(replacement)] = replacement
    check_sound(FrameSection(section.kind, bytes(data), address))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_instructions(code: bytes) -> None:
    section = Section()
    section.fde(section.cie(), code)
    check_sound(section.end().frames)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(SectionKind))
def test_any_section(data: bytes, kind: SectionKind) -> None:
    check_sound(FrameSection(kind, data, SECTION))
