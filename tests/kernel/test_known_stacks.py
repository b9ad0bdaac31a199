"""A stack that was walked before is recognized, and never confused with another one."""

from __future__ import annotations

import pytest
from harness.compiling import Compiler
from harness.length import chosen
from harness.reports import Report, Total
from harness.tracer import trace_work

pytestmark = pytest.mark.usefixtures("require_bpf")

ROUNDS, THREADS = 2000, 8
TURNS = ROUNDS * (1 + THREADS)


@pytest.fixture(scope="module", params=chosen(["-O0", "-O2"], ["-O1"]))
def report(compiled: Compiler, request: pytest.FixtureRequest) -> Report:
    program = compiled("known_stacks.c", request.param, "-pthread")
    return trace_work([program], "-v", "--full-stacks", "-T", "200").report


@pytest.mark.parametrize(
    ("scenario", "size", "count"),
    [
        ("scenario_left", 3, 1),
        ("scenario_right", 5, 1),
        ("scenario_much_above", 7, 1),
        ("scenario_much_below", 11, 1),
        ("scenario_recursive", 13, 9),
    ],
)
def test_stacks_that_begin_alike(report: Report, scenario: str, size: int, count: int) -> None:
    assert report.under(scenario) == Total(TURNS * count * size, TURNS * count)


def test_every_depth_is_a_stack_of_its_own(report: Report) -> None:
    by_depth: dict[int, int] = {}
    for site in report.sites_under("scenario_recursive"):
        assert site.raw["stack_end"] == "complete"
        depth = site.functions.count("by_depth")
        by_depth[depth] = by_depth.get(depth, 0) + site.total.count
    assert by_depth == dict.fromkeys(range(1, 10), TURNS)


def test_most_stacks_need_no_walk(report: Report) -> None:
    """13 stacks per thread, each 2,000 times."""
    assert report.raw["cost"]["known_stack_share"] > 0.8
    assert report.losses == {}


@pytest.mark.parametrize("optimized", ["-O0", "-O2"])
def test_a_short_stack_is_known_whatever_else_changes(compiled: Compiler, optimized: str) -> None:
    """Only words that decide a walk may select where its stack is looked up."""
    program = compiled("known_stacks.c", optimized, "-pthread")
    report = trace_work([program, "short"], "-v").report
    assert report.under("work_shortly") == Total(20_000 * 17, 20_000)
    assert report.raw["cost"]["known_stack_share"] > 0.9


@pytest.mark.parametrize("without", ["tail_calls", "uprobe_multi"])
def test_known_by_every_walker(
    compiled: Compiler, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    monkeypatch.setenv("LEAKTRACE_WITHOUT", without)
    program = compiled("known_stacks.c", "-O2", "-pthread")
    report = trace_work([program], "-v", "--full-stacks", "-T", "200").report
    assert report.under("scenario_left") == Total(TURNS * 3, TURNS)
    assert report.under("scenario_right") == Total(TURNS * 5, TURNS)
    assert report.raw["cost"]["known_stack_share"] > 0.8
