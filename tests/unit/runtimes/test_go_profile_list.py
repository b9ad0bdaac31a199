"""The lists of the profile's records and of goroutines, in memory that was damaged on purpose."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from leaktrace.runtimes.go import heap_profile
from leaktrace.runtimes.go.goroutine_list import MAX_GOROUTINES
from leaktrace.runtimes.go.goroutines import Goroutines, LayoutUnknownError
from leaktrace.runtimes.go.heap_layouts import MEMORY_KIND, heap_layouts
from leaktrace.runtimes.go.heap_profile import HeapProfile
from leaktrace.runtimes.go.heap_variables import HeapVariables
from leaktrace.runtimes.go.memory import GoMemory
from leaktrace.runtimes.go.program import GoProgram, Span
from leaktrace.runtimes.go.spans import SpanReader

LAYOUT = heap_layouts(27)[0]
BUCKET_WORDS = 6 + 1 + 4 * LAYOUT.record_bytes // 8
TEXT = Span(0x400000, 0x500000)
MASK = (1 << 64) - 1


def hash_of(*words: int) -> int:
    """runtime/mprof.go, stkbucket: of a stack and a size."""
    number = 0
    for word in words:
        number = (number + word) & MASK
        number = (number + (number << 10)) & MASK
        number ^= number >> 6
    number = (number + (number << 3)) & MASK
    return number ^ (number >> 11)


class List:
    """runtime.mbuckets and its list, in our own memory: the newest record comes first."""

    def __init__(self, count: int) -> None:
        self.heap = np.zeros(LAYOUT.heap_spans // 8 + 8, np.uint64)
        self.data = np.zeros(4, np.uint64)
        self.rows = np.zeros((count, BUCKET_WORDS), np.uint64)
        for index in range(count):
            size, pc = 16 * (index + 1), TEXT.start + index
            following = self.address(index - 1) if index else 0
            head = [0, following, MEMORY_KIND, hash_of(pc, size), size, 1, pc]
            self.rows[index, :7] = head
            self.rows[index, 7] = 1  # allocated
        memory = GoMemory(os.getpid())
        at = self.data.ctypes.data
        spans = {name: Span(0, 0) for name in ("noptrbss", "bss", "noptrdata", "data")}
        program = SimpleNamespace(
            memory=memory, text=TEXT, data={**spans, "bss": Span(at, at + self.data.nbytes)}
        )
        variables = SimpleNamespace(layout=LAYOUT, profile_rate=None)
        self.profile = HeapProfile(
            cast(GoProgram, program),
            cast(HeapVariables, variables),
            SpanReader(memory, LAYOUT, self.heap.ctypes.data),
        )

    def address(self, index: int) -> int:
        return self.rows.ctypes.data + index * self.rows.itemsize * BUCKET_WORDS

    def look(self, newest: int) -> tuple[int, int]:
        """How many records there are if one is the newest, and how many were skipped."""
        self.data[1] = self.address(newest)
        records, skipped = self.profile.records()
        return len(records), skipped


def test_the_rest_of_the_list_is_not_lost_behind_what_cannot_be_read() -> None:
    made = List(8)
    kind = made.rows[3, 2].copy()
    made.rows[3, 2] = 77
    assert made.look(5) == (2, 1)  # 5 and 4
    assert made.look(6) == (3, 1)  # it stays incomplete
    made.rows[3, 2] = kind
    assert made.look(7) == (8, 0)


def test_a_list_with_two_gaps() -> None:
    made = List(8)
    made.rows[[2, 6], 2] = 77
    assert made.look(4) == (2, 1)
    assert made.look(7) == (3, 2)
    made.rows[2, 2] = MEMORY_KIND
    assert made.look(7) == (6, 1)
    made.rows[6, 2] = MEMORY_KIND
    assert made.look(7) == (8, 0)


def test_more_records_than_are_kept_stay_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap_profile, "_MAX_RECORDS", 3)
    made = List(8)
    assert [made.look(newest) for newest in (5, 5, 6, 7)] == [(3, 1)] * 4


def test_a_search_for_the_list_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What isn't searched is never taken for an empty profile."""
    monkeypatch.setattr(heap_profile, "_MAX_CANDIDATES", 2)
    made = List(5)
    made.rows[:4, 3] += np.uint64(1)  # looks like a record, but has another hash
    made.data[[0, 2, 3]] = [made.address(index) for index in range(3)]
    assert made.look(4) == (0, 1)


def test_a_search_in_vain_is_repeated_after_a_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap_profile, "_FEWEST_TIMES", 1e9)  # not for the time that has passed
    made = List(2)
    made.rows[1, 2] = 77
    assert made.look(1) == (0, 0)
    made.rows[1, 2] = MEMORY_KIND
    assert made.look(1) == (0, 0)
    made.heap[LAYOUT.heap_spans // 8 - 1] += np.uint64(2)  # sweepgen
    assert made.look(1) == (2, 0)


def test_a_variable_that_points_to_a_record_for_a_while_is_not_taken_for_the_list() -> None:
    """As the end of an allocator's chunk does, until it has another chunk."""
    made = List(8)
    made.data[[0, 2]] = [made.address(3), made.address(4)]
    assert made.look(4) == (5, 0)
    made.data[0] = made.heap.ctypes.data
    assert made.look(6) == (7, 0)
    made.data[2] = 0
    assert made.look(7) == (8, 0)


def test_the_list_is_searched_again_where_it_is_not_what_was_found() -> None:
    made = List(8)
    made.data[0] = made.address(3)
    found, made.data = made.data, np.zeros(4, np.uint64)
    assert made.look(7) == (4, 0)
    found[:2] = [made.heap.ctypes.data, made.address(7)]
    made.heap[LAYOUT.heap_spans // 8 - 1] += np.uint64(2)
    assert made.look(7) == (8, 0)


def test_too_many_goroutines_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    header = np.array([0, MAX_GOROUTINES + 1, 1 << 22], np.uint64)
    looked = Goroutines.__new__(Goroutines)
    looked._list = header.ctypes.data
    looked._program = cast(
        GoProgram, SimpleNamespace(pid=os.getpid(), memory=GoMemory(os.getpid()))
    )
    with pytest.raises(LayoutUnknownError) as error:
        looked.look()
    assert "more than 2,097,152 goroutines" in error.value.message
