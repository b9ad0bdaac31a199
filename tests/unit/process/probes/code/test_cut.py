"""The cheapest cut, on graphs with obvious cuts, and compared with all cuts of small ones."""

from __future__ import annotations

from itertools import chain, combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaktrace.process.probes.code.cut import UNCUTTABLE, cheapest_cut


def test_the_narrowest_place() -> None:
    following = {1: [2, 3], 2: [4], 3: [4], 4: [5], 5: []}
    costs = {1: 9, 2: 5, 3: 5, 4: 7, 5: 9}
    assert cheapest_cut(costs, following, [1], [5], once=True) == {4}
    assert cheapest_cut(costs | {4: 20, 1: 20, 5: 20}, following, [1], [5], once=True) == {2, 3}


def test_where_nothing_can_be_cut() -> None:
    costs = {1: UNCUTTABLE, 2: UNCUTTABLE}
    assert cheapest_cut(costs, {1: [2]}, [1], [2], once=True) is None


def test_no_path_through_two_nodes_of_the_cut() -> None:
    """1 -> 2 -> 3 and 1 -> 3: cheapest would be 2 and another for the direct path."""
    following = {1: [2, 3], 2: [3], 3: []}
    assert cheapest_cut({1: 10, 2: 1, 3: 10}, following, [1], [3], once=True) in ({1}, {3})


def ways(following: dict[int, list[int]], node: int, sink: int) -> list[list[int]]:
    if node == sink:
        return [[node]]
    return [[node, *rest] for after in following[node] for rest in ways(following, after, sink)]


@given(
    st.lists(st.integers(1, 9), min_size=6, max_size=6),
    st.sets(st.sampled_from([*combinations(range(6), 2)])),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_as_cheap_as_any(costs: list[int], edges: set[tuple[int, int]], once: bool) -> None:
    following: dict[int, list[int]] = {node: [] for node in range(6)}
    for one, other in edges:
        following[one].append(other)
    all_ways = ways(following, 0, 5)
    subsets = chain.from_iterable(combinations(range(6), size) for size in range(7))
    fitting = [
        sum(costs[node] for node in chosen)
        for chosen in subsets
        if all(len({*way} & {*chosen}) == 1 if once else {*way} & {*chosen} for way in all_ways)
    ]
    found = cheapest_cut(dict(enumerate(costs)), following, [0], [5], once=once)
    if not all_ways:
        return
    assert found is not None
    assert all(len({*way} & found) == 1 if once else {*way} & found for way in all_ways)
    if not once:
        assert sum(costs[node] for node in found) == min(fitting)
    else:
        assert sum(costs[node] for node in found) >= min(fitting)


@pytest.mark.parametrize("once", [True, False])
def test_a_node_that_is_source_and_sink(once: bool) -> None:
    assert cheapest_cut({7: 3}, {7: []}, [7], [7], once=once) == {7}
