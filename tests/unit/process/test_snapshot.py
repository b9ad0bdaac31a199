"""Records of several processes, told apart by their keys."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi import process as abi
from leaktrace.process.snapshot import _blocks_of, _Images

NEVER = np.iinfo(np.uint64).max
TOP_ADDRESS = (1 << abi.SPACE_SHIFT) - 1


def images(exec_times_ns: dict[int, int]) -> _Images:
    """By slot: when its image was executed. The other slots have no process."""
    times = np.full(abi.MAX_SLOTS, NEVER, dtype=np.uint64)
    generations = np.full(abi.MAX_SLOTS, -1, dtype=np.int64)
    for slot, time_ns in exec_times_ns.items():
        times[slot], generations[slot] = time_ns, 0
    return _Images(generations, times, unseen_releases=0)


def keys(*records: tuple[int, int, int]) -> NDArray[np.uint64]:
    """Keys of (address, space, slot)."""
    return np.array(
        [a | space << abi.SPACE_SHIFT | slot << abi.SLOT_SHIFT for a, space, slot in records],
        dtype=np.uint64,
    )


def values(*times_ns: int) -> NDArray[np.void]:
    found = np.zeros(len(times_ns), dtype=abi.ALLOCATION)
    found["time_ns"], found["size"] = times_ns, range(100, 100 + len(times_ns))
    return found


def test_the_same_address_in_several_processes() -> None:
    whole = keys((0x1000, 0, 0), (0x1000, 0, 7), (TOP_ADDRESS, 0, abi.MAX_SLOTS - 1))
    found = _blocks_of(whole, values(5, 6, 7), images({0: 0, 7: 0, abi.MAX_SLOTS - 1: 0}))
    assert found.addresses.tolist() == [0x1000, 0x1000, TOP_ADDRESS]
    assert found.slots.tolist() == [0, 7, abi.MAX_SLOTS - 1]
    assert found.values["size"].tolist() == [100, 101, 102]
    assert found.region_count == 0


def test_the_space_is_no_part_of_the_address_or_slot() -> None:
    found = _blocks_of(keys((0x2000, 15, 3)), values(1), images({3: 0}))
    assert (found.addresses.tolist(), found.slots.tolist()) == ([0x2000], [3])
    assert found.spaces.tolist() == [15]


def test_an_exec_leaves_out_the_records_of_its_process_alone() -> None:
    whole = keys((0x1000, 0, 1), (0x2000, 0, 1), (0x3000, 0, 2))
    found = _blocks_of(whole, values(99, 100, 99), images({1: 100, 2: 0}))
    assert found.addresses.tolist() == [0x2000, 0x3000]
    assert found.slots.tolist() == [1, 2]
    assert found.values["size"].tolist() == [101, 102]


def test_records_without_a_process_are_left_out() -> None:
    found = _blocks_of(keys((0x1000, 0, 4), (0x1000, 0, 5)), values(50, 50), images({5: 0}))
    assert found.slots.tolist() == [5]
