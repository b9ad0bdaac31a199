"""How the comparison of --lost with other tools reads them, and what its table says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lost_cases import (
    BEGIN,
    END,
    Case,
    CaseError,
    Lost,
    Said,
    cases,
    first_error,
    from_leaktrace,
    from_lsan,
    from_memcheck,
    page,
    row,
    sources,
    totals,
    why_not,
)

# Printed by gcc 12's LeakSanitizer, and by valgrind 3.19.
LSAN = """
=================================================================
==14910==ERROR: LeakSanitizer: detected memory leaks

Direct leak of 77 byte(s) in 1 object(s) allocated from:
    #0 0x7f726f413545 in __interceptor_malloc

SUMMARY: LeakSanitizer: 77 byte(s) leaked in 1 allocation(s).
"""
MEMCHECK = """==15438== LEAK SUMMARY:
==15438==    definitely lost: 1,016 bytes in 3 blocks
==15438==    indirectly lost: 16 bytes in 2 blocks
==15438==      possibly lost: 33,554,432 bytes in 1 blocks
==15438==    still reachable: 8 bytes in 1 blocks
"""
CASE = Case(Path("leak.c"))


def report(**changes: Any) -> dict[str, Any]:
    lost = {
        f"{kind}_{what}": 0
        for kind in ("definite", "indirect", "possible")
        for what in ("bytes", "count")
    }
    lost |= {"definite_bytes": 24, "definite_count": 1, "possible_bytes": 9, "possible_count": 1}
    whole = {
        "final": True,
        "combined": False,
        "target": {"notes": []},
        "reach": {"lost": lost, "problems": []},
    }
    return whole | changes


def test_summaries_of_processes_are_added_up_and_the_last_of_each_counts() -> None:
    assert from_lsan("") == Lost(0, 0)
    assert from_lsan(LSAN * 2) == Lost(1, 77)
    assert from_lsan(LSAN + LSAN.replace("14910", "14911")) == Lost(2, 154)
    assert from_memcheck(MEMCHECK) == Lost(5, 1032)
    freed = "==15438== All heap blocks were freed -- no leaks are possible\n"
    assert from_memcheck(MEMCHECK + freed) == Lost(0, 0)
    assert from_memcheck(MEMCHECK + freed.replace("38", "39")) == Lost(5, 1032)


def test_a_tool_that_failed_has_not_found_nothing() -> None:
    with pytest.raises(CaseError, match="LeakSanitizer failed"):
        from_lsan("==1==LeakSanitizer has encountered a fatal error.")
    with pytest.raises(CaseError, match="no summary"):
        from_memcheck("==1== Process terminating with default action of signal 6")
    with pytest.raises(CaseError, match="no final report"):
        from_leaktrace([report(final=False)])


def test_possibly_lost_is_not_lost_and_what_is_not_known_is_said() -> None:
    assert from_leaktrace([report()]) == (Lost(1, 24), ())
    children = {"notes": ["1 child process ended before", "something else"]}
    said = from_leaktrace([report(), report(reach=None), report(target=children)])
    assert said == (Lost(2, 48), ("a process was not looked at", "1 child process ended before"))


def test_rows_say_where_tools_differ_and_whether_the_page_explains_it() -> None:
    one, none = Lost(1, 24), Lost(0, 0)
    assert row(CASE, Said(one, one, one), "").endswith("| 1 (24 B) |  |")
    assert row(CASE, Said(one, none, one), "").endswith("| – | 1 (24 B) | differs, unexplained |")
    assert row(CASE, Said(one, none, one), "* **leak.c**: …").endswith("| differs |")
    assert row(CASE, "a | b", "") == "| leak.c | | | | not compared: a \\| b |"
    assert "1 runs" not in totals([Said(one, none, one), Said(one, one, one), "why"])
    assert "2 runs of programs were compared, 1 were not" in totals(
        [Said(one, none, one), Said(one, one, one), "why"]
    )


def test_arguments_are_those_of_the_tests(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("// RUN: not %run %t foo 2>&1 | X\n// RUN: %run %t 2>&1\n")
    (tmp_path / "b.cpp").write_text("int main() {}\n")
    (tmp_path / "b-1.vgtest").write_text("prog: b\nvgopts: -q\nargs: 1\n")
    (tmp_path / "c-1.vgtest").write_text("prog: c\nargs: 2\n")
    (tmp_path / "b.h").touch()
    found = sources([tmp_path])
    assert [file.name for file in found] == ["a.c", "b.cpp"]
    assert [case.name for file in found for case in cases(file)] == ["a.c foo", "a.c", "b.cpp 1"]


def test_programs_that_only_leaksanitizer_understands_are_left_out() -> None:
    assert "`__lsan_disable`" in (why_not("  __lsan_disable();") or "")
    assert why_not("__lsan_do_leak_check();") is None


def test_the_table_is_replaced_and_the_rest_stays() -> None:
    old = f"before\n{BEGIN}\n\nold\n\n{END}\nafter\n"
    assert page(old, ["new"]) == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    with pytest.raises(ValueError, match="no <!--"):
        page("nothing", ["new"])


def test_the_first_error_of_a_compiler() -> None:
    text = "ld: a.c:3: undefined reference to `set'\ncollect2: error: ld returned 1 exit status"
    assert first_error(text) == "undefined reference to `set'"
    assert first_error("a.c:1:2: fatal error: x.h: No such file") == "x.h: No such file"
