"""Symbol tables built by hand: nesting, aliases, labels, gaps, and wrong numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings, strategies

from leaktrace.elf.symbols import (
    CodeRange,
    RawSymbols,
    SymbolMatch,
    SymbolTable,
    all_functions,
    find_functions,
    function_names,
    symbol_dtype,
)

FUNC, NOTYPE, OBJECT, IFUNC = 2, 0, 1, 10
LOCAL, GLOBAL, WEAK = 0, 1, 2
TEXT = CodeRange(0x1000, 0x2000)


@dataclass(frozen=True)
class Symbol:
    name: str
    start: int
    size: int = 0
    kind: int = FUNC
    binding: int = GLOBAL
    section: int = 1


def raw(*symbols: Symbol, versions: list[int] | None = None) -> RawSymbols:
    strings = b"\0"
    entries = np.zeros(len(symbols), symbol_dtype(64, "<"))
    for entry, symbol in zip(entries, symbols, strict=True):
        entry["name"] = len(strings)
        entry["info"] = symbol.binding << 4 | symbol.kind
        entry["section"] = symbol.section
        entry["value"], entry["size"] = symbol.start, symbol.size
        strings += symbol.name.encode() + b"\0"
    hidden = None if versions is None else np.array(versions, dtype=np.uint16)
    return RawSymbols(entries, strings, hidden)


def table(*symbols: Symbol, code: tuple[CodeRange, ...] = (TEXT,)) -> SymbolTable:
    return SymbolTable([raw(*symbols)], code)


def test_an_address_between_functions_has_no_name() -> None:
    symbols = table(Symbol("a", 0x1000, 0x10), Symbol("b", 0x1020, 0x10))
    assert symbols.lookup(0xFFF) is None
    assert symbols.lookup(0x1000) == ("a", 0)
    assert symbols.lookup(0x100F) == ("a", 15)
    assert symbols.lookup(0x1010) is None
    assert symbols.lookup(0x102F) == ("b", 15)
    assert symbols.lookup(0x1030) is None


def test_an_outer_function_goes_on_behind_an_inner_one() -> None:
    symbols = table(Symbol("outer", 0x1000, 0x100), Symbol("inner", 0x1010, 0x10))
    assert symbols.lookup(0x1010) == ("inner", 0)
    assert symbols.lookup(0x1020) == ("outer", 0x20)


def test_a_label_within_a_function_does_not_hide_it() -> None:
    symbols = table(Symbol("function", 0x1000, 0x40), Symbol("label", 0x1010, 0, NOTYPE))
    assert symbols.lookup(0x1018) == ("function", 0x18)


def test_a_size_beyond_the_section_ends_with_it() -> None:
    for size in (0x10000, (1 << 64) - 1, (1 << 64) - 0x1F80):
        symbols = table(Symbol("huge", 0x1F80, size))
        assert symbols.lookup(0x1FFF) == ("huge", 0x7F)
        assert symbols.lookup(0x2000) is None


def test_what_is_no_code_is_left_out() -> None:
    symbols = table(
        Symbol("undefined", 0x1000, 8, section=0),
        Symbol("absolute", 0x1000, 8, section=0xFFF1),
        Symbol("data", 0x1000, 8, OBJECT),
        Symbol("outside", 0x3000, 8),
        Symbol("before", 0xFF0, 0x20),
        Symbol("$x", 0x1000, 0, NOTYPE),
        Symbol(".L7", 0x1000, 0, NOTYPE),
        Symbol("", 0x1000, 8),
    )
    assert len(symbols) == 0
    assert symbols.lookup(0x1000) is None


def test_the_better_known_name() -> None:
    def best(*symbols: Symbol) -> str:
        match = table(*symbols).lookup(0x1004)
        assert match
        return match.name

    def at(name: str, **more: int) -> Symbol:
        return Symbol(name, 0x1000, 8, **more)

    assert best(at("__libc_malloc"), at("malloc"), at("__malloc", binding=LOCAL)) == "malloc"
    assert best(at("__write"), at("write", binding=WEAK)) == "write"
    assert best(at("short", binding=LOCAL), at("_long_global_name")) == "_long_global_name"
    assert best(at("label", kind=NOTYPE), at("_function")) == "_function"
    assert best(at("_ZN3FooC2Ev"), at("_Z3foov"), at("__wrapper")) == "_Z3foov"
    assert best(at("memcpy@@GLIBC_2.14"), at("__memcpy")) == "memcpy"
    assert best(at("b"), at("a")) == best(at("a"), at("b")) == "a"


def test_later_tables_add_what_the_first_lacks() -> None:
    symbols = SymbolTable(
        [raw(Symbol("exported", 0x1000, 8)), raw(Symbol("hidden", 0x1010, 8, binding=LOCAL))],
        [TEXT],
    )
    assert symbols.lookup(0x1001) == ("exported", 1)
    assert symbols.lookup(0x1011) == ("hidden", 1)


def test_an_empty_table() -> None:
    assert table().lookup(0x1000) is None
    assert table(Symbol("a", 0x1000, 8), code=()).lookup(0x1000) is None
    assert SymbolTable([], [TEXT]).lookup(0x1000) is None


def test_functions_by_name() -> None:
    symbols = [
        Symbol("free", 0x1000, 8),
        Symbol("xfree", 0x1010, 8),
        Symbol("freer", 0x1020, 8),
        Symbol("a_name_of_more_than_sixteen_letters", 0x1030, 8),
        Symbol("a_name_of_more_than_sixteen_words", 0x1040, 8),
        Symbol("undefined", 0, 0, section=0),
        Symbol("data", 0x1050, 8, OBJECT),
        Symbol("chosen", 0x1060, 8, IFUNC),
    ]
    names = [symbol.name for symbol in symbols]
    found = find_functions([raw(*symbols)], [*names, "", "missing", "fre", "a_name_of_more_tha"])
    assert {name: symbol.vaddr for name, symbol in found.items()} == {
        symbol.name: symbol.start for symbol in symbols if symbol.name not in ("undefined", "data")
    }
    assert [name for name, symbol in found.items() if symbol.is_ifunc] == ["chosen"]


def test_the_version_a_new_link_would_use() -> None:
    old, new = Symbol("f", 0x1000, 8), Symbol("f", 0x1010, 8)
    assert find_functions([raw(old, new, versions=[0x8002, 3])], ["f"])["f"].vaddr == 0x1010
    assert find_functions([raw(new, old, versions=[3, 0x8002])], ["f"])["f"].vaddr == 0x1010
    spelled = raw(Symbol("f@V1", 0x1000, 8), Symbol("f@@V2", 0x1010, 8))
    assert find_functions([spelled], ["f"])["f"].vaddr == 0x1010
    local = raw(Symbol("f", 0x1000, 8, binding=LOCAL), Symbol("f", 0x1010, 8))
    assert find_functions([local], ["f"])["f"].vaddr == 0x1010


def test_a_name_of_the_first_table_wins() -> None:
    tables = [raw(Symbol("f", 0x1000, 8)), raw(Symbol("f", 0x1010, 8), Symbol("g", 0x1020, 8))]
    found = find_functions(tables, ["f", "g"])
    assert (found["f"].vaddr, found["g"].vaddr) == (0x1000, 0x1020)


def by_hand(symbols: list[Symbol], vaddr: int) -> set[SymbolMatch]:
    """All good answers: the innermost sized symbols, else a label that reaches to the next one."""
    sized = [s for s in symbols if s.size and s.start <= vaddr < min(s.start + s.size, TEXT.end)]
    if not sized:
        before = max((s.start for s in symbols if s.start <= vaddr), default=None)
        sized = [s for s in symbols if s.start == before and not s.size]
    innermost = max((s.start for s in sized), default=0)
    return {SymbolMatch(s.name, vaddr - s.start) for s in sized if s.start == innermost}


symbols_in_text = strategies.builds(
    Symbol,
    name=strategies.text(alphabet="abc_", min_size=1, max_size=6),
    start=strategies.integers(0x1000, 0x1040),
    size=strategies.sampled_from([0, 1, 5, 16, 64, 1 << 63]),
    kind=strategies.sampled_from([FUNC, IFUNC, NOTYPE]),
    binding=strategies.sampled_from([LOCAL, GLOBAL, WEAK]),
)


@settings(max_examples=200, deadline=None, database=None)
@given(strategies.lists(symbols_in_text, max_size=12))
def test_lookups_are_those_done_by_hand(symbols: list[Symbol]) -> None:
    built = table(*symbols)
    for vaddr in range(0xFF8, 0x1090):
        match, good = built.lookup(vaddr), by_hand(symbols, vaddr)
        assert (match in good) if match else not good


@settings(max_examples=200, deadline=None, database=None)
@given(strategies.binary(max_size=24 * 8), strategies.binary(max_size=64))
def test_any_bytes_are_survived(entries: bytes, strings: bytes) -> None:
    whole = entries[: len(entries) - len(entries) % 24]
    damaged = RawSymbols(np.frombuffer(whole, symbol_dtype(64, "<")), strings)
    built = SymbolTable([damaged], [CodeRange(0, 1 << 63)])
    for vaddr in (0, 1, 0x1000, 1 << 40, (1 << 64) - 1, 1 << 64, -1):
        built.lookup(vaddr)
    find_functions([damaged], ["a", "free"])


def test_every_function_of_a_name() -> None:
    dynamic = raw(Symbol("open", 0x1000), Symbol("open", 0x1100), versions=[2, 0x8003])
    static = raw(
        Symbol("open", 0x1000),
        Symbol("open", 0x1200, binding=LOCAL),
        Symbol("opened", 0x1300),
        Symbol("open", 0x1400, kind=OBJECT),
    )
    found = all_functions([dynamic, static], "open")
    assert [one.vaddr for one in found] == [0x1000, 0x1100, 0x1200]
    assert all_functions([dynamic, static], "ope") == ()
    (chosen,) = all_functions([raw(Symbol("memcpy", 0x1000, kind=IFUNC))], "memcpy")
    assert chosen.is_ifunc


def test_the_names_of_functions() -> None:
    tables = [raw(Symbol("a", 0x1000), Symbol("b", 0x1010)), raw(Symbol("a", 0x1000))]
    assert function_names(tables, 10) == ["a", "b"]
    assert function_names(tables, 1) == ["a"]
