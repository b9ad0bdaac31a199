"""Allocators that are recognized by their symbols, in objects that gcc makes and in the
system's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from assembled import Make

from leaktrace.elf.object import ElfObject
from leaktrace.elf.symbols import find_functions, functions_beginning_with, functions_ending_in
from leaktrace.model import Remark, RemarkKind
from leaktrace.options import ObjectChoice
from leaktrace.process.probes.families import MARKS
from leaktrace.process.probes.find_allocators import find_allocators
from leaktrace.process.probes.object_plan import plan_object
from leaktrace.process.probes.planner import Planner
from leaktrace.process.probes.survey import Survey, survey_object
from leaktrace.targets.mappings import read_mappings


def remarks(*paths: Path) -> list[Remark]:
    """The remarks about a process with these objects, whose malloc is hooked if they have one."""
    survey = Survey()
    for path in paths:
        with ElfObject.open(path) as elf:
            tables = elf.symbol_tables()
            allocators, functions = find_allocators(tables, others=MARKS)
            plan = plan_object(elf, str(path), allocators=allocators)
            hooked = frozenset() if plan is None else plan.hooked
            survey.add(str(path), survey_object(elf, tables, functions, hooked))
    found = list(survey.remarks(lambda _: True))
    assert {remark.kind for remark in found} <= {RemarkKind.UNHOOKED_ALLOCATOR}
    return found


@pytest.mark.parametrize(
    ("functions", "family"),
    [
        (("mi_malloc",), "mimalloc, as mi_malloc"),
        (("je_mallocx", "je_rallocx", "je_malloc"), "jemalloc, as je_malloc"),
        (("_rjem_mallocx", "_rjem_rallocx"), "jemalloc, as _rjem_mallocx"),
        (("any_prefix_mallocx", "any_prefix_rallocx"), "jemalloc, as any_prefix_mallocx"),
        (("tc_malloc",), "tcmalloc, as tc_malloc"),
        (("rpmalloc",), "rpmalloc, as rpmalloc"),
        (("sn_rust_alloc",), "snmalloc, as sn_rust_alloc"),
        (("GC_malloc",), "the Boehm collector, as GC_malloc"),
        (("runtime.mallocgc",), "(Go)"),
        (("JNI_CreateJavaVM",), "(Java)"),
        (("_ZN2v87Isolate3NewERKNS0_12CreateParamsE",), "(V8)"),
        (("coreclr_initialize",), "(.NET)"),
    ],
)
def test_families(functions: tuple[str, ...], family: str, make: Make) -> None:
    path = make(*functions)
    (remark,) = remarks(path)
    assert remark.text.startswith(f"{path.name} has ")
    assert family in remark.text
    assert "--faults" in remark.hint


def test_a_go_program_without_symbols(make: Make) -> None:
    table = '__attribute__((section(".gopclntab"))) const int table = 1;'
    (remark,) = remarks(make("main", extra=table))
    assert "(Go)" in remark.text


def test_two_in_one_object_share_a_line(make: Make) -> None:
    (remark,) = remarks(make("mi_malloc", "je_mallocx", "je_rallocx", "je_malloc"))
    assert "mimalloc, as mi_malloc; jemalloc, as je_malloc" in remark.text


@pytest.mark.parametrize(
    "functions",
    [
        ("mi_malloc", "mi_free"),
        ("tc_malloc", "tc_free"),
        ("rpmalloc", "rpfree"),
        ("sn_rust_alloc", "sn_rust_dealloc"),
        ("scalable_malloc", "scalable_free"),
        ("_rjem_malloc", "_rjem_free", "_rjem_mallocx", "_rjem_rallocx"),
    ],
)
def test_what_is_hooked_is_not_missing(functions: tuple[str, ...], make: Make) -> None:
    assert remarks(make(*functions)) == []


@pytest.mark.parametrize(
    "functions",
    [
        ("sqlite3_malloc", "g_malloc", "xmalloc", "zmalloc", "PyMem_Malloc", "av_malloc"),
        ("my_mallocx",),  # and nothing else of jemalloc
        ("mi_malloc", "mi_free", "PyObject_Malloc"),  # CPython's copy
        ("mallocx", "rallocx", "malloc", "free"),  # jemalloc itself
        ("mi_version", "tc_version", "rp_version"),
    ],
)
def test_what_is_no_allocator(functions: tuple[str, ...], make: Make) -> None:
    assert remarks(make(*functions)) == []


def test_a_prefixed_allocator_next_to_a_hooked_one(make: Make) -> None:
    """As in a static program: its C library's malloc is hooked, but not the allocator that the
    program calls."""
    (remark,) = remarks(make("malloc", "free", "_rjem_malloc", "_rjem_mallocx", "_rjem_rallocx"))
    assert "jemalloc, as _rjem_malloc" in remark.text


def test_the_same_function_under_two_names_is_hooked(make: Make) -> None:
    alias = 'void *mi_malloc(long) __attribute__((alias("malloc")));'
    assert remarks(make("malloc", "free", extra=f"void *malloc(long); {alias}")) == []


def test_calls_of_a_hooked_library(make: Make) -> None:
    alias = 'void *mi_malloc(long) __attribute__((alias("malloc")));'
    library = make(
        "malloc",
        "free",
        "mi_zalloc",
        "mi_malloc_aligned",
        "mi_heap_new",
        "mi_malloc_usable_size",
        extra=f"void *malloc(long); {alias}",
    )
    assert remarks(library) == []
    assert remarks(library, make("f", called=("mi_malloc", "mi_heap_new"))) == []
    asks_for_sizes = make("g", called=("mi_malloc_usable_size", "mi_free"))
    assert remarks(library, asks_for_sizes) == []
    (remark,) = remarks(library, make("h", called=("mi_malloc", "mi_zalloc")))
    assert remark.text.startswith(f"mi_zalloc of {library.name} is called and not hooked")


def test_a_heap_that_is_destroyed_as_a_whole(make: Make) -> None:
    library = make("mi_malloc", "mi_free", "mi_heap_malloc", "mi_heap_destroy", "mi_heap_delete")
    assert remarks(library, make("f", called=("mi_heap_malloc", "mi_heap_delete"))) == []
    program = make("g", called=("mi_heap_malloc", "mi_heap_destroy"))
    (remark,) = remarks(library, program)
    assert remark.text.startswith(f"{program.name} calls mi_heap_destroy, which releases all")


def test_objects_that_are_not_mapped_any_more(make: Make) -> None:
    survey, path = Survey(), make("mi_malloc")
    with ElfObject.open(path) as elf:
        tables = elf.symbol_tables()
        survey.add(
            str(path), survey_object(elf, tables, find_functions(tables, MARKS), frozenset())
        )
    assert list(survey.remarks(lambda name: name != str(path))) == []
    survey.forget()
    assert list(survey.remarks(lambda _: True)) == []


def test_this_process() -> None:
    """Python and every library that these tests have loaded: numpy, capstone and so on."""
    mapped = {Path(m.path) for m in read_mappings(os.getpid()) if m.is_executable and m.is_file}
    # Other tests load objects that they have compiled, and whose files are gone.
    paths = [path for path in mapped if path.exists()]
    assert any("numpy" in str(path) for path in paths)
    assert [remark for path in paths for remark in remarks(path)] == []


def test_symbol_names_against_nm(require_tool: Callable[[str], str]) -> None:
    """Names by their beginning and their end, compared with binutils."""
    (path,) = {
        m.path for m in read_mappings(os.getpid()) if "/libc.so" in m.path and m.is_executable
    }
    listing = subprocess.run(
        [require_tool("nm"), "-D", path], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split() for line in listing.splitlines()]
    functions = {row[2].split("@")[0]: int(row[0], 16) for row in rows if row[-2] in "TtWi"}
    undefined = {row[-1].split("@")[0] for row in rows if row[-2] in "Uw"}
    with ElfObject.open(path) as elf:
        tables = elf.symbol_tables()
    wanted = {name for name in functions if name.startswith("mallo")}
    named = functions_beginning_with(tables, ["mallo"], defined=True)
    assert wanted <= set(named)
    assert {name: named[name] for name in wanted} == {name: functions[name] for name in wanted}
    asked = functions_beginning_with(tables, ["_dl_", "__tls"], defined=False)
    assert set(asked) == {name for name in undefined if name.startswith(("_dl_", "__tls"))}
    assert {name for name in functions if name.endswith("alloc")} <= functions_ending_in(
        tables, "alloc"
    )


def test_a_plan_made_before_the_start_knows_its_mappings(
    require_tool: Callable[[str], str],
) -> None:
    """The dynamic loader names a library by a path with links, /lib/…, and the kernel the file."""
    program = require_tool("sleep")
    plans = Planner(ObjectChoice()).plan_command(program)
    with subprocess.Popen([program, "60"]) as process:
        try:
            while not all(plan.code_in(read_mappings(process.pid)) for plan in plans):
                assert process.poll() is None  # it has not mapped them yet
        finally:
            process.kill()
    assert plans


def test_names_that_are_no_utf_8(make: Make) -> None:
    path = make(r"\377\376mallocx", r"\377\376rallocx", "malloc", called=(r"\377helper",))
    with ElfObject.open(path) as elf:
        tables = elf.symbol_tables()
        assert functions_ending_in(tables, "mallocx") == {"\udcff\udcfemallocx"}
        assert "\udcff\udcfemallocx" in find_functions(tables, ("\udcff\udcfemallocx",))
        assert functions_beginning_with(tables, ("\udcff",), defined=False)
    (remark,) = remarks(path)
    assert remark.kind is RemarkKind.UNHOOKED_ALLOCATOR
    with ElfObject.open(path) as elf:
        assert find_allocators(elf.symbol_tables(), "\udcff") == ([], {})
