"""Variables by address, compared with nm(1)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from leaktrace.elf.data_symbols import data_symbols
from leaktrace.elf.object import ElfObject

SOURCE = """
int set_one = 1; static long set_two[4] = {2}; char unset[100]; const int constant = 3;
__thread int of_thread = 4;
int function(int at) { return set_one + set_two[at] + unset[at] + constant + of_thread; }
"""


@pytest.mark.parametrize("flags", [("-shared", "-fPIC"), ("-shared", "-fPIC", "-s")])
def test_variables_are_those_of_nm(
    flags: tuple[str, ...], tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    source, path = tmp_path / "source.c", tmp_path / "library.so"
    source.write_text(SOURCE)
    subprocess.run([require_tool("gcc"), *flags, "-o", str(path), str(source)], check=True)
    told = subprocess.run(
        [require_tool("nm"), "-S", *(["-D"] if "-s" in flags else []), str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    names = {"set_one", "unset", "constant"} | (set() if "-s" in flags else {"set_two"})
    found = {
        name: (int(value, 16), int(size, 16))
        for value, size, _, name in (
            line.split() for line in told.stdout.splitlines() if len(line.split()) == 4
        )
    }
    assert names <= found.keys()
    with ElfObject.open(path) as elf:
        table = data_symbols(elf)
        for name in names:
            value, size = found[name]
            for offset in (0, size - 1):
                match = table.lookup(value + offset)
                assert match is not None
                assert (match.name, match.offset) == (name, offset)
        # Neither code nor what each thread has of its own.
        assert table.lookup(found["function"][0]) is None
        known = [table.lookup(at) for at in range(0, found["unset"][0] + 200)]
        assert names >= {one.name for one in known if one is not None} - {
            "completed.0",
            "__dso_handle",
            "__TMC_END__",
            "_DYNAMIC",
            "_GLOBAL_OFFSET_TABLE_",
            "__EH_FRAME_BEGIN__",
            "__FRAME_END__",
            "__do_global_dtors_aux_fini_array_entry",
            "__frame_dummy_init_array_entry",
        }
