"""Variables by address: in tables built by hand, and in a compiled file as nm(1) lists it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from harness.compiling import Compiler

from leaktrace.elf.object import ElfObject
from leaktrace.elf.symbols import RawSymbols, symbol_dtype
from leaktrace.elf.variables import Variables

OBJECT, FUNC, TLS = 1, 2, 6
LOCAL, GLOBAL = 0, 1


def table(*symbols: tuple[str, int, int, int, int]) -> RawSymbols:
    """Each: name, start, size, kind, binding."""
    entries = np.zeros(len(symbols), symbol_dtype(64, "<"))
    strings = b"\0"
    for entry, (name, start, size, kind, binding) in zip(entries, symbols, strict=True):
        entry["name"], entry["value"], entry["size"] = len(strings), start, size
        entry["info"], entry["section"] = binding << 4 | kind, 1
        strings += name.encode() + b"\0"
    return RawSymbols(entries, strings)


def names_at(variables: Variables, *addresses: int) -> list[str | None]:
    found = variables.find(np.array(addresses, dtype=np.uint64))
    return [variables.name(one) if one >= 0 else None for one in found.tolist()]


def test_by_address() -> None:
    variables = Variables(
        [
            table(
                ("first", 0x1000, 16, OBJECT, GLOBAL),
                ("code", 0x1010, 16, FUNC, GLOBAL),
                ("second", 0x1020, 8, OBJECT, LOCAL),
                ("thread_local", 0x10, 8, TLS, GLOBAL),
                ("empty", 0x1030, 0, OBJECT, GLOBAL),
            )
        ]
    )
    assert names_at(variables, 0xFF8, 0x1000, 0x1008, 0x1010, 0x1020, 0x1028, 0x1030, 0x10) == [
        None,
        "first",
        "first",
        None,
        "second",
        None,
        None,
        None,
    ]


def test_of_several_names_the_best() -> None:
    variables = Variables(
        [
            table(
                ("__environ", 0x1000, 8, OBJECT, GLOBAL),
                ("environ", 0x1000, 8, OBJECT, GLOBAL),
                ("copy", 0x1000, 8, OBJECT, LOCAL),
                ("_environ", 0x1000, 8, OBJECT, GLOBAL),
            )
        ]
    )
    assert names_at(variables, 0x1000, 0x1007) == ["environ", "environ"]


def test_a_variable_within_another() -> None:
    variables = Variables(
        [table(("outer", 0x1000, 64, OBJECT, GLOBAL), ("inner", 0x1010, 8, OBJECT, GLOBAL))]
    )
    assert names_at(variables, 0x1008, 0x1010, 0x1018, 0x1040) == ["outer", "inner", "outer", None]


def test_wrong_numbers() -> None:
    strange = table(
        ("all", 0, (1 << 64) - 1, OBJECT, GLOBAL), ("last", (1 << 64) - 8, 1 << 40, OBJECT, GLOBAL)
    )
    strange.entries["name"][1] = 1 << 31
    assert names_at(Variables([strange]), (1 << 64) - 4, 5) == ["", "all"]
    assert names_at(Variables([RawSymbols(strange.entries, b"")]), 5) == [""]
    assert names_at(Variables([]), 5) == [None]


@pytest.mark.parametrize("thread_local", [False, True])
def test_a_file(tmp_path: Path, thread_local: bool) -> None:
    path = Compiler(tmp_path)("holders.c", "-ldl")
    listed = nm(path, "bBdDl" if thread_local else "bBdD")
    with ElfObject.open(path) as elf:
        variables = Variables(elf.symbol_tables(), thread_local=thread_local)
    if thread_local:
        assert names_at(variables, 0, 127, 128) == ["thread_local_holder"] * 2 + [None]
        return
    expected = {name for _, _, name in listed} - {"thread_local_holder"}
    assert {"global_list", "static_table", "global_array"} <= expected
    for start, size, name in listed:
        if name in expected:
            assert names_at(variables, start, start + size - 1) == [name, name]


SOURCE = """
int set_one = 1; static long set_two[4] = {2}; char unset[100]; const int constant = 3;
__thread int of_thread = 4;
int function(int at) { return set_one + set_two[at] + unset[at] + constant + of_thread; }
"""


@pytest.mark.parametrize("flags", [(), ("-s",)])
def test_a_library(flags: tuple[str, ...], tmp_path: Path) -> None:
    source, path = tmp_path / "source.c", tmp_path / "library.so"
    source.write_text(SOURCE)
    subprocess.run(["gcc", "-shared", "-fPIC", *flags, "-o", path, source], check=True)
    listed = nm(path, "bBdDrRT", *(["-D"] if flags else []))
    found = {name: (start, size) for start, size, name in listed}
    names = {"set_one", "unset", "constant"} | (set() if flags else {"set_two"})
    assert names <= found.keys()
    with ElfObject.open(path) as elf:
        variables = Variables(elf.symbol_tables())
    for name in names:
        start, size = found[name]
        assert names_at(variables, start, start + size - 1) == [name, name]
        (number,) = variables.find(np.array([start + size - 1], dtype=np.uint64))
        assert variables.start(number) == start
    # Neither code, nor what each thread has of its own, nor where symbols without a size are: these
    # would seem to contain all that follows them.
    assert names_at(variables, found["function"][0]) == [None]
    known = names_at(variables, *range(found["unset"][0] + 200))
    assert names <= set(known) <= names | {None, "completed.0", "__dso_handle"}


def nm(path: Path, kinds: str, *flags: str) -> list[tuple[int, int, str]]:
    text = subprocess.run(
        ["nm", "-S", "--defined-only", *flags, path], capture_output=True, text=True, check=True
    ).stdout
    found = re.findall(rf"^([0-9a-f]+) ([0-9a-f]+) [{kinds}] (\S+)$", text, re.MULTILINE)
    return [(int(start, 16), int(size, 16), name) for start, size, name in found]
