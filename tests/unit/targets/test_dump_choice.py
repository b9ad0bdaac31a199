"""Which memory is meant, in mappings made by hand."""

from __future__ import annotations

import pytest

from leaktrace.errors import TargetError, UsageError
from leaktrace.targets.dump_choice import Part, by_address, by_name
from leaktrace.targets.mappings import parse_mappings

MAPPINGS = parse_mappings(
    b"00001000-00003000 r-xp 00000000 08:01 7 /usr/lib/libc.so.6\n"
    b"00003000-00004000 rw-p 00002000 08:01 7 /usr/lib/libc.so.6\n"
    b"00006000-00009000 rw-p 00000000 00:00 0 [heap]\n"
    b"00009000-0000a000 rw-p 00000000 00:00 0 \n"
    b"0000a000-0000b000 r--p 00000000 08:01 9 /usr/share/evil\x1b[31m\n"
    b"100000000000-100000001000 rw-p 00000000 00:00 0 [stack]\n"
)
TEXT, DATA, HEAP, ANONYMOUS, EVIL, STACK = MAPPINGS


def test_an_address_means_the_mapping_that_contains_it() -> None:
    assert by_address(MAPPINGS, 0x1FFF, None) == [Part(0x1000, 0x3000, TEXT)]
    assert by_address(MAPPINGS, 0x6000, None) == [Part(0x6000, 0x9000, HEAP)]


def test_a_size_may_cross_mappings_and_gaps() -> None:
    assert by_address(MAPPINGS, 0x2FF8, 0x10) == [
        Part(0x2FF8, 0x3000, TEXT),
        Part(0x3000, 0x3008, DATA),
    ]
    assert by_address(MAPPINGS, 0x3FFF, 0x3000) == [
        Part(0x3FFF, 0x4000, DATA),
        Part(0x4000, 0x6000, None),
        Part(0x6000, 0x6FFF, HEAP),
    ]
    assert by_address(MAPPINGS, 0x100000000FFF, 3)[-1] == Part(0x100000001000, 0x100000001002, None)


@pytest.mark.parametrize("address", [0, 0xFFF, 0x4000, 0x5FFF, 1 << 63, (1 << 64) - 1])
def test_where_nothing_is_mapped(address: int) -> None:
    with pytest.raises(TargetError, match="nothing is mapped") as caught:
        by_address(MAPPINGS, address, 16)
    assert "mapping before it ends" in caught.value.hint or "next one begins" in caught.value.hint


def test_a_size_that_leads_far_beyond() -> None:
    with pytest.raises(UsageError, match=r"nothing is mapped at 16\.0 TiB") as caught:
        by_address(MAPPINGS, 0x6000, 1 << 44)
    assert "12,288 bytes" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("[heap]", Part(0x6000, 0x9000, HEAP)),
        ("[stack]", Part(0x100000000000, 0x100000001000, STACK)),
        ("/usr/share/evil\x1b[31m", Part(0xA000, 0xB000, EVIL)),
        ("evil\x1b[31m", Part(0xA000, 0xB000, EVIL)),
    ],
)
def test_names(name: str, part: Part) -> None:
    assert by_name(MAPPINGS, name, None, takes_all=False) == [part]
    (first,) = by_name(MAPPINGS, name, 0x10, takes_all=False)
    assert (first.start, first.end) == (part.start, part.start + 0x10)
    (whole,) = by_name(MAPPINGS, name, part.end - part.start, takes_all=False)
    assert whole == part


def test_a_name_of_several_mappings() -> None:
    for name in ("libc.so.6", "/usr/lib/libc.so.6"):
        with pytest.raises(UsageError, match="2 mappings are called") as caught:
            by_name(MAPPINGS, name, None, takes_all=False)
        assert "0x1000 (r-xp, 8.0 KiB), 0x3000 (rw-p, 4.0 KiB)" in caught.value.message
        assert "--all" in caught.value.hint
        parts = by_name(MAPPINGS, name, None, takes_all=True)
        assert [part.mapping for part in parts] == [TEXT, DATA]


def test_a_size_beyond_the_mapping() -> None:
    with pytest.raises(UsageError, match="has 8,192 bytes, fewer than the 9,000") as caught:
        by_name(MAPPINGS[:1], MAPPINGS[0].path, 9000, takes_all=False)
    assert "leave it out" in caught.value.hint


def test_an_address_as_maps_writes_it() -> None:
    with pytest.raises(TargetError) as caught:
        by_name(MAPPINGS, "56227de66000", None, takes_all=False)
    assert caught.value.hint == "did you mean the address 0x56227de66000?"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("libc.so", "libc.so.6"), ("heap", "[heap]"), ("", "[stack]"), ("55d0c8a2b000", "0x")],
)
def test_a_name_of_none(name: str, hint: str) -> None:
    with pytest.raises(TargetError, match="no mapping is called") as caught:
        by_name(MAPPINGS, name, None, takes_all=False)
    assert hint in caught.value.hint


def test_names_are_shown_without_control_characters() -> None:
    with pytest.raises(TargetError) as caught:
        by_name(MAPPINGS, "evil\x1b[32m", None, takes_all=False)
    assert (caught.value.message + caught.value.hint).isprintable()
