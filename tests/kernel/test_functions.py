"""Exact figures for every allocation function, every failure, and every way to unmap parts of a
region."""

from __future__ import annotations

import pytest
from harness.compiling import Compiler
from harness.reports import Report, Total
from harness.tracer import trace_work

pytestmark = pytest.mark.usefixtures("require_bpf")

PAGE = 4096
MIB = 1 << 20

FUNCTIONS = {
    "scenario_malloc": Total(3000, 3),
    "scenario_malloc_zero": Total(0, 2),
    "scenario_malloc_large": Total(128 * MIB, 2),  # memleak: malloc and mmap, twice as much
    "scenario_calloc": Total(1320, 4),
    "scenario_realloc_null": Total(385, 5),  # memleak, combined: counted twice
    "scenario_realloc_grows": Total(10000, 2),
    "scenario_realloc_shrinks": Total(50, 1),
    "scenario_realloc_large": Total(96 * MIB, 1),
    "scenario_realloc_to_zero": Total(),
    "scenario_reallocarray": Total(231, 3),
    "scenario_reallocarray_grows": Total(1000, 1),
    "scenario_posix_memalign": Total(1000, 2),
    "scenario_aligned_alloc": Total(1536, 2),  # memleak, combined: an alias, counted twice
    "scenario_memalign": Total(600, 2),
    "scenario_valloc": Total(220, 2),
    "scenario_pvalloc": Total(240, 2),
    "scenario_strdup": Total(5, 1),
    "scenario_mmap": Total(6 * PAGE, 2),
    "scenario_all_released": Total(),
}

FAILURES = {
    "scenario_malloc_fails": Total(),
    "scenario_calloc_overflows": Total(),
    "scenario_realloc_fails": Total(123, 1),  # memleak: the block is lost
    "scenario_realloc_fails_then_freed": Total(),
    "scenario_reallocarray_overflows": Total(321, 1),
    "scenario_reallocarray_wraps_to_zero": Total(322, 1),
    "scenario_posix_memalign_fails": Total(40, 1),  # memleak: counted although it failed
    "scenario_aligned_alloc_fails": Total(),
    "scenario_mmap_fails": Total(),  # memleak: MAP_FAILED is recorded
    "scenario_mremap_fails": Total(2 * PAGE, 1),
    "scenario_munmap_fails": Total(2 * PAGE, 1),
}

REGIONS = {
    "scenario_unmapped_whole": Total(),
    "scenario_unmapped_head": Total(5 * PAGE, 1),  # memleak: a partial munmap drops all
    "scenario_unmapped_tail": Total(6 * PAGE, 1),
    "scenario_unmapped_middle": Total(6 * PAGE, 2),
    "scenario_unmapped_in_two_steps": Total(),
    "scenario_unmapped_odd_length": Total(6 * PAGE, 1),
    "scenario_unmapped_across": Total(4 * PAGE, 2),
    "scenario_neighbours": Total(4 * PAGE, 1),
    "scenario_replaced_whole": Total(4 * PAGE, 1),
    "scenario_replaced_inside": Total(8 * PAGE, 3),
    "scenario_remap_grows": Total(8 * PAGE, 1),
    "scenario_remap_shrinks": Total(3 * PAGE, 1),
    "scenario_remap_moves": Total(8 * PAGE, 1),
    "scenario_remap_onto_another": Total(4 * PAGE, 1),
    "scenario_remap_part": Total(8 * PAGE, 2),
    "scenario_remap_keeps_old": Total(8 * PAGE, 2),
    "scenario_remap_duplicates": Total(8 * PAGE, 2),
}


def everything(truth: dict[str, Total]) -> Total:
    return Total(
        sum(total.bytes for total in truth.values()), sum(total.count for total in truth.values())
    )


@pytest.fixture(scope="module")
def functions(compiled: Compiler) -> Report:
    return trace_work([compiled("functions.c")]).report


@pytest.fixture(scope="module")
def failures(compiled: Compiler) -> Report:
    return trace_work([compiled("failures.c")]).report


@pytest.fixture(scope="module")
def regions(compiled: Compiler) -> Report:
    return trace_work([compiled("regions.c")]).report


@pytest.mark.parametrize("scenario", FUNCTIONS)
def test_function(functions: Report, scenario: str) -> None:
    assert functions.under(scenario) == FUNCTIONS[scenario]


@pytest.mark.parametrize("scenario", FAILURES)
def test_failing_call(failures: Report, scenario: str) -> None:
    assert failures.under(scenario) == FAILURES[scenario]


@pytest.mark.parametrize("scenario", REGIONS)
def test_region(regions: Report, scenario: str) -> None:
    assert regions.under(scenario) == REGIONS[scenario]


def test_totals_are_the_sum_of_the_truth(
    functions: Report, failures: Report, regions: Report
) -> None:
    assert functions.outstanding == everything(FUNCTIONS)
    assert failures.outstanding == everything(FAILURES)
    assert regions.outstanding == everything(REGIONS)


def test_nothing_is_lost(functions: Report, failures: Report, regions: Report) -> None:
    assert functions.losses == {}
    assert failures.losses == {}
    assert regions.losses == {}


def test_a_stack_starts_at_the_caller_and_reaches_main(functions: Report) -> None:
    (site,) = functions.sites_under("scenario_malloc")
    assert site.functions[:2] == ("scenario_malloc", "main")
    assert site.raw["stack_end"] == "complete"


def test_a_frame_names_the_line_of_the_call(functions: Report, compiled: Compiler) -> None:
    """A return address is that of the next instruction: its line is found one byte before."""
    source = compiled.source("functions.c").read_text().splitlines()
    (site,) = functions.sites_under("scenario_malloc")
    frame = site.frames[0]
    assert frame.file is not None
    assert frame.file.endswith("functions.c")
    assert frame.line is not None
    assert "malloc(1000)" in source[frame.line - 1]
    assert site.frames[1].line is not None
    assert "scenario_malloc()" in source[site.frames[1].line - 1]


def test_history_of_a_site(functions: Report) -> None:
    """What was allocated and freed since tracing began, next to what is left."""
    (site,) = functions.sites_under("scenario_malloc")
    assert site.raw["allocated_bytes"] == 3000
    assert site.raw["allocated_count"] == 3
    assert site.raw["freed_count"] == 0


def test_a_library_function_that_allocates_is_the_first_frame(functions: Report) -> None:
    (site,) = functions.sites_under("scenario_strdup")
    assert site.functions[1] == "scenario_strdup"
    assert site.frames[0].module is not None
    assert "libc" in site.frames[0].module


def test_regions_are_the_same_with_combined_only(compiled: Compiler) -> None:
    report = trace_work([compiled("regions.c")], "--combined-only").report
    assert {scenario: report.under(scenario) for scenario in REGIONS} == REGIONS
    assert report.outstanding == everything(REGIONS)


@pytest.mark.parametrize("option", ["--combined-only", "--wa-missing-free"])
def test_totals_are_the_same_with(option: str, compiled: Compiler) -> None:
    report = trace_work([compiled("functions.c")], option).report
    assert report.outstanding == everything(FUNCTIONS)
    assert report.under("scenario_aligned_alloc") == FUNCTIONS["scenario_aligned_alloc"]
    assert report.under("scenario_realloc_null") == FUNCTIONS["scenario_realloc_null"]
