"""Names from the traced process: escaped, measured in cells, shortened."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from leaktrace.model import Frame, SourceLine
from leaktrace.report.frames import frame_lines
from leaktrace.report.names import (
    module_name,
    printable,
    shorten_folders,
    shorten_middle,
    shorten_path,
    shorten_symbol,
    wrap,
)

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=200)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("main", "main"),
        ("größe_漢字", "größe_漢字"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x9b", "\\x9b"),
        ("\u202e", "\\u202e"),
        ("\U000e0001", "\\U000e0001"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), "caf\\xe9"),
        ("\ud800", "\\ud800"),
    ],
)
def test_printable(name: str, shown: str) -> None:
    assert printable(name) == shown


@given(ANY_TEXT)
def test_printable_is_always_one_line_of_valid_utf8(name: str) -> None:
    shown = printable(name)
    shown.encode("utf-8")
    assert shown.isprintable()
    assert printable(shown) == shown


@pytest.mark.parametrize(
    ("module", "shown"),
    [
        ("/usr/lib/libz.so.1", "libz.so.1"),
        ("[vdso]", "vdso"),
        ("kernel", "kernel"),
        ("/", "/"),
        ("/tmp/\x1b]x", "\\x1b]x"),
    ],
)
def test_module_name(module: str, shown: str) -> None:
    assert module_name(module) == shown


@given(ANY_TEXT.map(printable), st.integers(0, 100))
def test_shortened_fits(text: str, cells: int) -> None:
    for shorter in (
        shorten_middle(text, cells),
        shorten_symbol(text, cells),
        shorten_path(text, cells),
    ):
        assert cell_len(shorter) <= cells
    if cell_len(text) <= cells and len(text) <= 2 * cells:
        assert shorten_middle(text, cells) == text


def test_shorten_middle_keeps_both_ends() -> None:
    assert shorten_middle("abcdefghijklmnopqrstuvwxyz", 13) == "abcd...uvwxyz"


def test_shorten_middle_counts_wide_characters() -> None:
    assert shorten_middle("漢字" * 10, 13) == "漢字...字漢字"


@pytest.mark.parametrize(
    ("cells", "shown"),
    [
        (100, "std::map<int, std::less<int>>::insert<int>(int const&, (anonymous namespace)::T)"),
        (75, "std::map<...>::insert<...>(int const&, {anonymous}::T)"),
        (40, "std::map<...>::insert<...>(...)"),
        (20, "std::m...t<...>(...)"),
    ],
)
def test_shorten_symbol(cells: int, shown: str) -> None:
    name = "std::map<int, std::less<int>>::insert<int>(int const&, (anonymous namespace)::T)"
    assert shorten_symbol(name, cells) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("functor::operator()() const", "functor::operator()() const"),
        ("handle<int>::operator->(int)", "handl...r->(int)"),
        ("operator<< <char>(std::ostream&)", "opera...stream&)"),
    ],
)
def test_shorten_symbol_with_operators(name: str, shown: str) -> None:
    assert shorten_symbol(name, max(16, len(shown))) == shown


def test_shorten_path_drops_folders_first() -> None:
    path = "/home/build/src/http/parser.c:118"
    assert shorten_folders(path, 25) == ".../src/http/parser.c:118"
    assert shorten_folders(path, 5) == ".../parser.c:118"
    assert cell_len(shorten_path(path, 12)) == 12


@given(ANY_TEXT.map(printable), st.integers(20, 80))
def test_wrapped_lines_fit_and_keep_the_words(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert all(cell_len(line) <= width for line in lines)
    if all(len(word) <= width // 2 for word in text.split()):
        assert " ".join(lines).split() == text.split()


def plain(frame: Frame, width: int) -> list[str]:
    return [line.plain for line in frame_lines([frame], width)]


def test_location_gets_its_own_line_before_it_is_cut() -> None:
    frame = Frame(
        0x10,
        "a_function_with_a_name_that_is_long_even_in_c_" * 2,
        7,
        "/usr/lib/x86_64-linux-gnu/libsomething_with_a_long_name.so.12",
        source=SourceLine("/home/build/somewhere/a_source_file_with_a_long_name.c", 12345),
    )
    name, place = plain(frame, 76)
    assert name.endswith("+0x7")
    assert "a_source_file_with_a_long_name.c:12345" not in name
    assert "[libsomething_with_a_long_name.so.12]" in place
    assert place.strip().startswith(".../a_source") or "12345" in place


def test_unknown_frame_says_why_and_where() -> None:
    frame = Frame(0x7F0010, None, 0, "/usr/lib/libz.so", module_offset=0x10, unknown="no symbols")
    assert plain(frame, 76) == ["0x7f0010  [libz.so+0x10]  (no symbols)"]
    assert plain(Frame(0x7F0010), 76) == ["0x7f0010  (no name is known)"]


def test_inlined_frame_is_marked() -> None:
    frame = Frame(0x10, "f", 3, "[vdso]", source=SourceLine("a.c", 1), inlined=True)
    assert plain(frame, 76) == ["f (inlined)  a.c:1  [vdso]"]


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT, st.integers(36, 120))
def test_frame_lines_fit(function: str, module: str, file: str, width: int) -> None:
    frames = [
        Frame(0x7FFFFFFFFFFF, function, 0xFFFF, module, source=SourceLine(file, 99_999)),
        Frame(0x7FFFFFFFFFFF, function, 0, module, inlined=True),
        Frame(0x7FFFFFFFFFFF, None, 0, module, module_offset=0xFFFFFFFF, unknown=file),
        Frame(0x7FFFFFFFFFFF, function, 0xFFFF),
    ]
    assert all(line.cell_len <= width for line in frame_lines(frames, width))
