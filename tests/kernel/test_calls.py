"""Unusual calls: left by a jump, in tail position, from before tracing began."""

from __future__ import annotations

import pytest
from harness.compiling import Compiler
from harness.reports import Report, Total
from harness.tracer import trace_work

pytestmark = pytest.mark.usefixtures("require_bpf")


@pytest.fixture(scope="module")
def jumps(compiled: Compiler) -> Report:
    return trace_work([compiled("longjmp.c")]).report


@pytest.mark.parametrize(
    ("scenario", "truth"),
    [
        ("scenario_same_depth", Total(500, 5)),
        ("scenario_same_function", Total(1000, 5)),
        ("scenario_shallower", Total(1500, 5)),
        ("scenario_deeper", Total(2000, 5)),
    ],
)
def test_allocations_after_a_call_left_by_a_jump(
    jumps: Report, scenario: str, truth: Total
) -> None:
    assert jumps.under(scenario) == truth


def test_calls_left_by_a_jump_are_counted(jumps: Report) -> None:
    assert jumps.outstanding == Total(5000, 20)
    assert jumps.losses == {"stale_calls": 4}


@pytest.fixture(scope="module")
def tail_calls(compiled: Compiler) -> Report:
    return trace_work([compiled("tail_calls.c", "-foptimize-sibling-calls")]).report


@pytest.mark.parametrize(
    ("scenario", "truth"),
    [
        ("scenario_tail_malloc", Total(840, 4)),
        ("scenario_tail_calloc", Total(880, 4)),
        ("scenario_tail_realloc", Total(920, 1)),
        ("scenario_tail_free", Total()),
    ],
)
def test_a_wrapper_that_jumps_to_the_allocator(
    tail_calls: Report, scenario: str, truth: Total
) -> None:
    assert tail_calls.under(scenario) == truth
    assert tail_calls.losses == {}


def test_a_wrapper_without_a_frame_is_not_on_the_stack(tail_calls: Report) -> None:
    (site,) = tail_calls.sites_under("scenario_tail_malloc")
    assert site.functions[:2] == ("scenario_tail_malloc", "main")


def test_a_call_that_begins_again(compiled: Compiler) -> None:
    """Through a hook that initializes the function: it is one call, and none was left."""
    report = trace_work([compiled("hooks_at_first.c", "-foptimize-sibling-calls")]).report
    assert report.under("scenario_first_calls") == Total(100, 2)
    assert report.losses == {}


def test_blocks_from_before_attaching(compiled: Compiler) -> None:
    report = trace_work([compiled("before_attach.c")]).report
    assert report.under("scenario_resized") == Total(20_000, 10)
    assert report.under("scenario_freed") == Total()
    assert report.under("scenario_new") == Total(7 * 48, 7)
    assert report.outstanding == Total(20_000 + 7 * 48, 17)
    assert report.losses == {}


def test_exceptions_pass_through_a_traced_allocation(compiled: Compiler) -> None:
    """The target throws bad_alloc out of operator new and catches it (else it would not exit
    with 0); what it allocates before and after is seen."""
    report = trace_work([compiled("shop.cpp")]).report
    sites = [
        site
        for site in report.sites
        if any(name is not None and "shop::Cart::add(" in name for name in site.functions)
    ]
    assert sum(site.total.bytes for site in sites) == 10 * 25 * 4
    assert sum(site.total.count for site in sites) == 10
    for site in sites:
        assert site.functions[-1] is not None
        assert site.raw["stack_end"] == "complete"


def test_coroutines_on_stacks_of_their_own(compiled: Compiler) -> None:
    report = trace_work([compiled("coroutines.c")]).report
    assert report.under("scenario_coroutine") == Total(2 * 50 * 160, 100)
    assert report.outstanding == report.under("scenario_coroutine")
    assert report.lost_allocations == {}


@pytest.mark.parametrize("stack", ["the same", "alternate"])
def test_interrupted_in_the_middle_of_calls(stack: str, compiled: Compiler) -> None:
    """300 signals, whose handler maps memory, on the same stack or on a signal stack."""
    report = trace_work([compiled("signals.c"), stack]).report
    assert report.under("scenario_interrupted") == Total(10_000, 100)
    assert report.outstanding == Total(10_000, 100)
    # A signal within the few instructions of the kernel's return trampoline: the walk stops, and is
    # counted.
    lost = report.lost_allocations
    given_up = lost.get("stale_calls", 0)
    assert lost == ({"stale_calls": given_up, "missed_returns": given_up} if given_up else {})
