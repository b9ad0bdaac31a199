"""Allocators other than a shared glibc: preloaded, static, musl, a program's own."""

from __future__ import annotations

import ctypes.util
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.length import chosen
from harness.reports import Report, Total
from harness.tracer import trace_work

pytestmark = pytest.mark.usefixtures("require_bpf")

TRUTH = {
    "scenario_malloc": Total(100_000, 100),
    "scenario_large": Total(24 << 20, 3),
    "scenario_calloc": Total(33_000, 100),
    "scenario_realloc": Total(sum(50 + 100 * i for i in range(100)), 100),
    "scenario_aligned": Total(100 * (500 + 640 + 300), 300),
    "scenario_released": Total(),
}


def check(report: Report) -> None:
    assert {scenario: report.under(scenario) for scenario in TRUTH} == TRUTH
    assert report.outstanding == Total(
        sum(total.bytes for total in TRUTH.values()), sum(total.count for total in TRUTH.values())
    )
    assert report.lost_allocations == {}


@pytest.mark.parametrize("library", ["jemalloc", "tcmalloc_minimal", "mimalloc"])
@pytest.mark.may_skip("not every machine has every allocator")
def test_preloaded(library: str, compiled: Compiler) -> None:
    name = ctypes.util.find_library(library)
    if name is None:
        pytest.skip(f"lib{library} is not installed")
    check(trace_work([compiled("allocator.c")], target_env={"LD_PRELOAD": name}).report)


@pytest.mark.parametrize("library", chosen(["", "jemalloc"], ["tcmalloc_minimal", "mimalloc"]))
@pytest.mark.may_skip("not every machine has every allocator")
def test_what_an_allocator_maps_for_calls_left_out(library: str, compiled: Compiler) -> None:
    """The end of such a call isn't seen, but its mappings are not the program's."""
    name = ctypes.util.find_library(library) if library else ""
    if name is None:
        pytest.skip(f"lib{library} is not installed")
    program = compiled("allocator.c")
    report = trace_work([program], "-s", "1000000000", target_env={"LD_PRELOAD": name}).report
    assert report.outstanding == Total()
    assert report.lost_allocations == {}


@pytest.mark.parametrize("library", ["", "jemalloc", "tcmalloc_minimal", "mimalloc"])
@pytest.mark.may_skip("not every machine has every allocator")
def test_operators_of_cpp(library: str, compiled: Compiler) -> None:
    """Those of jemalloc and tcmalloc don't pass malloc; those of libstdc++ do."""
    name = ctypes.util.find_library(library) if library else ""
    if name is None:
        pytest.skip(f"lib{library} is not installed")
    program = compiled("operators.cpp", "-std=c++17")
    report = trace_work([program], target_env={"LD_PRELOAD": name}).report
    assert report.under("scenario_keep()") == Total(100 * (1000 + 10 + 4 + 64), 400)
    assert report.under("scenario_delete()") == Total()
    assert report.lost_allocations == {}
    assert all(site.functions[0] == "scenario_keep()" for site in report.sites)


def test_a_preloaded_wrapper_that_jumps_to_the_librarys_allocator(compiled: Compiler) -> None:
    """Hooked in both objects, and each call counted once."""
    wrapper = compiled("interposer.c", "-shared", "-fPIC", "-foptimize-sibling-calls")
    check(trace_work([compiled("allocator.c")], target_env={"LD_PRELOAD": str(wrapper)}).report)


def test_static_glibc(compiled: Compiler) -> None:
    check(trace_work([compiled("allocator.c", "-static")]).report)


@pytest.mark.parametrize("linking", [(), ("-static",)], ids=["shared", "static"])
@pytest.mark.may_skip("not every machine has musl")
def test_musl(linking: tuple[str, ...], compiled: Compiler) -> None:
    check(trace_work([compiled("allocator.c", *linking, compiler="musl-gcc")]).report)


def test_a_static_program_named_by_obj(compiled: Compiler) -> None:
    program = compiled("allocator.c", "-static")
    check(trace_work([program], "-O", str(program)).report)


def test_a_programs_own_allocator_under_a_prefix(compiled: Compiler) -> None:
    program = compiled("own_allocator.c")
    report = trace_work([program], "-O", str(program), "--symbols-prefix", "my_").report
    assert report.under("scenario_own") == Total(9 * 130, 9)
    assert report.outstanding == report.under("scenario_own")
    assert report.losses == {}


def test_without_obj_a_prefixed_allocator_is_not_hooked(compiled: Compiler) -> None:
    report = trace_work([compiled("own_allocator.c")]).report
    assert report.outstanding == Total(9 * 150, 9)


def test_a_deleted_program_is_traced(compiled: Compiler, tmp_path: Path) -> None:
    """Static, so that the probes and names are those of a file that has no path any more."""
    program = tmp_path / "gone"
    program.write_bytes(compiled("allocator.c", "-static").read_bytes())
    program.chmod(0o755)
    check(trace_work([program], before_attaching=program.unlink).report)


def test_a_replaced_program_is_traced_as_it_was(compiled: Compiler, tmp_path: Path) -> None:
    """As after an upgrade: another file has taken its path."""
    program = tmp_path / "replaced"
    program.write_bytes(compiled("allocator.c", "-static").read_bytes())
    program.chmod(0o755)

    def replace() -> None:
        program.unlink()
        program.write_bytes(compiled("commands.c").read_bytes())

    check(trace_work([program], before_attaching=replace).report)
