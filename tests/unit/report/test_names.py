"""Names from the traced process: measured in cells, shortened."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from leaktrace.printable import printable
from leaktrace.report.folding import FoldedRun, folded, unrepeated
from leaktrace.report.frames import frame_lines
from leaktrace.report.function_names import least_cells, outermost_scope, shorten_symbol
from leaktrace.report.names import (
    module_name,
    shorten_folders,
    shorten_middle,
    shorten_path,
    wrap,
)
from leaktrace.site import Frame, SourceLine

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=200)


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
        (75, "std::map<int, std::less<int>>::insert<int>(int const&, {anonymous}::T)"),
        (60, "std::map<...>::insert<...>(int const&, {anonymous}::T)"),
        (40, "std::map<...>::insert<...>(...)"),
        (30, "std::map<...>::insert<...>"),
        (20, "std::map::insert"),
        (15, "...::insert"),
        (6, "insert"),
        (5, "...rt"),
    ],
)
def test_shorten_symbol(cells: int, shown: str) -> None:
    name = "std::map<int, std::less<int>>::insert<int>(int const&, (anonymous namespace)::T)"
    assert shorten_symbol(name, cells) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("functor::operator()() const", "functor::operator()() const"),
        ("handle<int>::operator->(int)", "handle<...>::operator->"),
        ("handle<int, int>::operator->(int)", "handle<...>::operator->(int)"),
        ("bool std::operator< <char, int>(T)", "std::operator< <char, int>(T)"),
        ("bool std::operator==<char, int>(T)", "std::operator==<char, int>(T)"),
        ("operator<< <char>(std::ostream&)", "operator<< <...>(...)"),
        ("f<(3 < 4), int>::operator unsigned long()", "f<...>::operator unsigned long()"),
        ("operator new(unsigned long)", "operator new(...)"),
    ],
)
def test_shorten_symbol_with_operators(name: str, shown: str) -> None:
    assert shorten_symbol(name, len(shown)) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (
            "std::shared_ptr<std::enable_if<!is_array<app::Order>::value, app::Order>::type>"
            " std::make_shared<app::Order>()",
            "std::make_shared<app::Order>()",
        ),
        (
            "std::_Rb_tree_node<std::pair<int const, int>>*"
            " std::_Rb_tree<int, std::pair<int const, int>>::_M_create_node<int>(int&&) const",
            "std::_Rb_tree<...>::_M_create_node<...>(int&&) const",
        ),
        ("unsigned long f<int>(int)", "f<int>(int)"),
        ("decltype(auto) f<int>(int)", "f<int>(int)"),
        ("auto f<int>(int)::{lambda(int)#1}::operator()(int) const",
         "f<int>(int)::{lambda(int)#1}::operator()(int) const"),
        # No types that are returned:
        ("void (*f<int, long>(int))(char)", "void (*f<...>(int))(char)"),
        ("virtual thunk to A<int, int>::f<int>(int)", "virtual thunk to A<...>::f<...>(int)"),
        ("<vec::Vec<T> as iter::FromIterator<U>>::from_iter",
         "<vec::Vec as iter::FromIterator>::from_iter"),
        ("core::ptr::drop_in_place::<alloc::vec::Vec<u8>>", "core::ptr::drop_in_place"),
    ],
)  # fmt: skip
def test_what_a_function_returns_goes_first(name: str, shown: str) -> None:
    assert shorten_symbol(name, len(shown)) == shown


def test_scopes_in_the_middle_go_before_letters_do() -> None:
    name = "app::core::engine::orders::OrderBook::process_incoming(app::Message const&)"
    assert shorten_symbol(name, 45) == "app::...::orders::OrderBook::process_incoming"
    assert shorten_symbol(name, 44) == "app::...::OrderBook::process_incoming"
    assert shorten_symbol(name, 36) == "app::...::process_incoming"
    assert shorten_symbol(name, 21) == "...::process_incoming"
    assert shorten_symbol(name, 15) == "proc...incoming"


@given(st.text("<>(){}[]:ab operator-*&,", max_size=200), st.integers(0, 60))
def test_brackets_that_do_not_pair_are_text(name: str, cells: int) -> None:
    shorter = shorten_symbol(name, cells)
    assert cell_len(shorter) <= cells
    assert cells < 3 or not name.strip() or shorter.strip()
    assert least_cells(name) <= len(name)


@pytest.mark.parametrize("part", ["<", "(", "a(", "a<", "operator<", "::", "{[", "a<(", "<>", "->"])
def test_deep_names_are_shortened(part: str) -> None:
    name = (part * 4096)[:4096]
    assert cell_len(shorten_symbol(name, 40)) <= 40
    assert len(outermost_scope(name)) <= len(name)


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("std::vector<int>::push_back(int&&)", "std"),
        ("void std::vector<int>::emplace_back<int>(int&&)", "std"),
        ("std::shared_ptr<app::A> app::make<app::A>()", "app"),
        ("bool std::operator==<char>(std::string const&)", "std"),
        ("main", ""),
        ("g(std::string)", ""),
        ("<std::vec::Vec<T> as app::Trait>::f", "<std::vec::Vec<T> as app::Trait>"),
    ],
)
def test_outermost_scope(name: str, scope: str) -> None:
    assert outermost_scope(name) == scope


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
    return all_plain([frame], width)


def all_plain(frames: list[Frame], width: int) -> list[str]:
    return [line.plain for line in frame_lines(list(unrepeated(frames)), width)]


LEAK = [
    Frame(0x10, function, 3, module, source=source)
    for function, module, source in (
        ("remember_request", "/bin/leak", SourceLine("/home/me/workspaces/examples/leak.c", 27)),
        ("g_main_dispatch", "/usr/lib/libglib-2.0.so.0", None),
        ("main", "/bin/leak", SourceLine("/home/me/workspaces/examples/leak.c", 68)),
        ("__libc_start_call_main", "/usr/lib/libc.so.6",
         SourceLine("../sysdeps/nptl/libc_start_call_main.h", 58)),
        ("_start", "/bin/leak", None),
    )
]  # fmt: skip


def test_columns_line_up_and_paths_keep_two_parts() -> None:
    assert all_plain([*LEAK, Frame(0x7F0010, unknown="not mapped")], 80) == [
        "remember_request+0x3        .../examples/leak.c:27         [leak]",
        "g_main_dispatch+0x3                                        [libglib-2.0.so.0]",
        "main+0x3                    .../examples/leak.c:68         [leak]",
        "__libc_start_call_main+0x3  .../libc_start_call_main.h:58  [libc.so.6]",
        "_start+0x3                                                 [leak]",
        "0x7f0010                    (not mapped)",
    ]


def test_wide_columns_show_paths_in_full() -> None:
    assert all_plain(LEAK[-2:] + LEAK[:1], 116) == [
        "__libc_start_call_main+0x3  ../sysdeps/nptl/libc_start_call_main.h:58  [libc.so.6]",
        "_start+0x3                                                             [leak]",
        "remember_request+0x3        /home/me/workspaces/examples/leak.c:27     [leak]",
    ]


def test_a_short_source_leaves_room_to_a_long_name_and_the_other_way_round() -> None:
    remember = Frame(
        0x10, "app::OrderBook::remember(int, std::string const&)", 0, "/bin/shop",
        source=SourceLine("/tmp/shop.cc", 11), inlined=True,
    )  # fmt: skip
    own = Frame(0x10, "main", 3, "/bin/shop", source=SourceLine("/tmp/a_long_name_of_a_file.cc", 9))
    assert all_plain([remember, own, LEAK[-2]], 72) == [
        "app::OrderBook::remember(...) (inlined)  /tmp/shop.cc:11     [shop]",
        "main+0x3                     .../a_long_name_of_a_file.cc:9  [shop]",
        "__libc_start_call_main+0x3    .../libc_start_call_main.h:58  [libc.so.6]",
    ]


@pytest.mark.parametrize("width", [76, 80, 116, 200])
def test_modules_are_in_one_column(width: int) -> None:
    folder = "/home/build/agent/workspace/product-release/src/cache/storage"
    long_names = [
        Frame(0x20, f"app::Cache<int>::{'insert' * count}(app::Key const&)", 3, "/bin/leak",
              source=SourceLine(f"{folder}/entries.cc", count))
        for count in (1, 5, 30)
    ]  # fmt: skip
    lines = all_plain([*LEAK, *long_names], width)
    assert len({line.index("[") for line in lines if "[" in line}) == 1
    assert sum("[" in line for line in lines) == len(LEAK) + len(long_names)
    assert all(line == line.rstrip() for line in lines)


def test_recursion_is_counted() -> None:
    main = Frame(0x99, "main", 1)
    walk, visit = Frame(0x10, "walk", 3), Frame(0x20, "visit", 5)
    assert all_plain([walk] * 126 + [main], 76) == [
        "walk+0x3",
        "... 125 more of the same",
        "main+0x1",
    ]
    assert all_plain([walk, visit] * 40 + [walk, main], 76) == [
        "walk+0x3",
        "visit+0x5",
        "... the same 2 frames 39 more times",
        "walk+0x3",
        "main+0x1",
    ]
    assert all_plain([walk] * 3 + [main], 76) == ["walk+0x3"] * 3 + ["main+0x1"]
    other_call = Frame(0x14, "walk", 7)
    assert len(all_plain([walk, other_call] * 3, 76)) == 6


def test_folded_frames_are_one_line() -> None:
    lines = frame_lines(
        [LEAK[0], FoldedRun(1200, ("V8", "Node.js", "libuv", "libc")), LEAK[2]], width=56
    )
    assert [line.plain for line in lines] == [
        "remember_request+0x3  .../examples/leak.c:27  [leak]",
        "... 1,200 frames of V8, Node.js, libuv and others",
        "main+0x3              .../examples/leak.c:68  [leak]",
    ]
    (line,) = frame_lines([FoldedRun(2, ("CPython", "libc"))], 76)
    assert line.plain == "... 2 frames of CPython and libc"


def test_only_own_frames_are_bold() -> None:
    lines = list(frame_lines(LEAK, 80))
    bold = [any("bold" in str(span.style) for span in line.spans) for line in lines]
    assert bold == [True, False, True, False, False]


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
    assert place.split() == [
        ".../a_source_file_with_a_long_name.c:12345",
        "[libsome...g_name.so.12]",
    ]


def test_unknown_frame_says_why_and_where() -> None:
    frame = Frame(0x7F0010, None, 0, "/usr/lib/libz.so", module_offset=0x10, unknown="no symbols")
    assert plain(frame, 76) == ["[libz.so+0x10]  (no symbols)"]
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
        Frame(0x7FFFFFFFFFFF, None, 0, module, unknown=file, source=SourceLine(file, 1)),
        Frame(0x7FFFFFFFFFFF, function, 0xFFFF),
    ]
    assert all(line.cell_len <= width for line in frame_lines(frames, width))
    run = FoldedRun(2, (module, file, function))
    assert all(line.cell_len <= width for line in frame_lines([*folded(frames), run], width))
