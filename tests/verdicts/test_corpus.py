"""Verdicts about programs of which it is known whether they leak: a part of the corpus, at one
speed. `make verdicts` traces all of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from corpus.building import build
from corpus.cases import CASES, PROGRAMS, descriptions, programs
from corpus.judging import ALARMS, Judged, judge, read
from corpus.running import Plan, run

BY_NAME = {case.name: case for case in CASES}

LEAKS = (
    *("leak_fast", "leak_per_error", "leak_under_churn", "leak_by_one_caller"),
    *("leak_in_late_library", "leak_descriptors"),
)
OTHERS = (
    *("steady_churn", "startup", "cache_lru", "sawtooth"),
    *("connections", "reloads_configuration"),
)
AT_ONCE = 12


@pytest.fixture(scope="module")
def judged(
    require_bpf: None,
    require_tool: Callable[[str], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Judged]:
    """All of these cases, traced at the same time: they mostly sleep.

    A busy machine can stop a program, or leaktrace, for seconds, and then their times are not those
    of the case. So a case whose verdict is wrong is traced again, alone.
    """
    directory = tmp_path_factory.mktemp("verdicts")
    for compiler in ("gcc", "g++"):
        require_tool(compiler)
    program = build(directory)

    def trace(name: str) -> Judged:
        plan, truth, said = read(run(BY_NAME[name], Plan(name, "short"), program, directory))
        return judge(BY_NAME[name], plan.label, truth, said)

    with ThreadPoolExecutor(AT_ONCE) as executor:
        found = {one.case: one for one in executor.map(trace, (*LEAKS, *OTHERS))}
    return {name: one if is_right(one) else trace(name) for name, one in found.items()}


def is_right(one: Judged) -> bool:
    if one.false_sites_at_end or not one.is_settled:
        return False
    leaks = BY_NAME[one.case].is_leak
    return (one.report_said in ALARMS) == leaks and one.leaks_found == int(leaks)


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_is_found(name: str, judged: dict[str, Judged]) -> None:
    one = judged[name]
    assert one.leaked_blocks > 0, "the program has not leaked"
    assert is_right(one), one


@pytest.mark.parametrize("name", OTHERS)
def test_what_does_not_leak_is_no_alarm(name: str, judged: dict[str, Judged]) -> None:
    one = judged[name]
    assert one.is_settled, "the program has not settled"
    assert is_right(one), one


def test_each_program_has_a_truth_and_a_description() -> None:
    assert {case.program for case in CASES} == set(programs())
    assert set(descriptions()) == set(programs())
    assert len(CASES) == len(BY_NAME) >= 40


def test_functions_of_the_truth_are_in_the_sources() -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in PROGRAMS.glob("*.c*"))
    for case in CASES:
        assert all(function in text for function in case.leaks), case
