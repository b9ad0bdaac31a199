"""The ledger of mapped regions, compared with a model of every page. The model holds, for each
page, what a call mapped there: mmap(2), munmap(2) and mremap(2) are specified in terms of pages. It
has no order, no search and no parts of regions.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leaktrace.abi import process as abi
from leaktrace.abi.process import EventCode
from leaktrace.process.region_account import RegionAccount
from leaktrace.process.regions import RegionLedger

PAGE = os.sysconf("SC_PAGESIZE")
ADD, RELEASE, RESTORE = (
    EventCode.REGION_ADD,
    EventCode.REGION_RELEASE,
    EventCode.REGION_RESTORE,
)


@dataclass(frozen=True)
class Step:
    """One event, as the BPF program sends it."""

    kind: EventCode
    address: int
    size: int
    tid: int = 1
    stack_id: int = 1
    time_ns: int = 0

    def event(self) -> np.void:
        event: np.void = np.zeros(1, dtype=abi.EVENT)[0]
        for name in ("kind", "address", "size", "tid", "stack_id", "time_ns"):
            event[name] = getattr(self, name)
        return event


@dataclass(frozen=True)
class Held:
    """What a page holds: the bytes that a call asked for, which may end within the page."""

    stack_id: int
    time_ns: int
    bytes: int


class Model:
    """Pages by number."""

    def __init__(self) -> None:
        self.pages: dict[int, Held] = {}
        self.mapped: Counter[int] = Counter()  # bytes by stack
        self.calls: Counter[int] = Counter()
        self._taken: dict[int, dict[int, Held]] = {}  # by thread

    def apply(self, step: Step) -> None:
        end = step.address + step.size
        pages = range(step.address // PAGE, -(-end // PAGE))
        match step.kind:
            case EventCode.REGION_ADD:
                self._taken.pop(step.tid, None)
                for page in pages:
                    size = min(PAGE, end - page * PAGE)
                    self.pages[page] = Held(step.stack_id, step.time_ns, size)
                self.mapped[step.stack_id] += step.size
                self.calls[step.stack_id] += 1
            case EventCode.REGION_RELEASE:
                is_refused = step.address % PAGE or not step.size
                there = [] if is_refused else sorted(self.pages.keys() & _numbers(pages, self))
                self._taken[step.tid] = {page: self.pages.pop(page) for page in there}
            case EventCode.REGION_RESTORE:
                self.pages |= self._taken.pop(step.tid, {})


def _numbers(pages: range, model: Model) -> set[int]:
    """Those of the pages that may be held: a range can be nearly endless."""
    return {page for page in model.pages if page in pages}


def pages_of(ledger: RegionLedger) -> dict[int, Held]:
    """Regions page by page. Each page is in one of them, and they are in order."""
    pages: dict[int, Held] = {}
    last_end = 0
    for region in ledger:
        assert last_end <= region.start < region.end
        assert region.start % PAGE == region.end % PAGE == 0
        last_end = region.end
        left = region.size_bytes
        assert region.end - PAGE < region.start + left <= region.end
        for address in range(region.start, region.end, PAGE):
            size = min(PAGE, left)
            pages[address // PAGE] = Held(region.stack_id, region.time_ns, size)
            left -= size
    return pages


def followed(*steps: Step) -> tuple[RegionLedger, Model]:
    """The ledger and the model after some events."""
    account, model = RegionAccount(tuple, frozenset), Model()
    for step in steps:
        account.apply(step.event())
        model.apply(step)
    return account.mapped, model


def check(ledger: RegionLedger, model: Model) -> None:
    assert pages_of(ledger) == model.pages
    held: Counter[int] = Counter()
    for page in model.pages.values():
        held[page.stack_id] += page.bytes
    addresses, records = ledger.records()
    assert addresses.tolist() == [region.start for region in ledger]
    by_stack: Counter[int] = Counter()
    for record in records:
        by_stack[int(record["stack_id"])] += int(record["size"])
    assert by_stack == held
    for stack_id, totals in ledger.freed().items():
        assert totals.bytes == model.mapped[stack_id] - held[stack_id]
        regions = sum(region.stack_id == stack_id for region in ledger)
        assert totals.count == model.calls[stack_id] - regions


def mmap(first: int, size: int, stack_id: int = 1, tid: int = 1) -> Step:
    return Step(ADD, first * PAGE, size, tid, stack_id, time_ns=stack_id * 10)


def munmap(first: int, size: int, tid: int = 1) -> Step:
    return Step(RELEASE, first * PAGE, size, tid)


def failed(tid: int = 1) -> Step:
    """The call whose release came before has failed."""
    return Step(RESTORE, 0, 0, tid)


def mremap(
    first: int, size: int, new_first: int, new_size: int, stack_id: int = 2
) -> tuple[Step, Step]:
    return munmap(first, size), mmap(new_first, new_size, stack_id)


# --- cases by name -----------------------------------------------------------------------------

CASES: dict[str, tuple[tuple[Step, ...], dict[int, int]]] = {
    # what happens, and the bytes of each page afterwards
    "a length within a page": ((mmap(4, PAGE + 5),), {4: PAGE, 5: 5}),
    "all is unmapped": ((mmap(4, 3 * PAGE), munmap(4, 3 * PAGE)), {}),
    "the head is unmapped": ((mmap(4, 2 * PAGE + 9), munmap(4, PAGE)), {5: PAGE, 6: 9}),
    "the tail is unmapped": ((mmap(4, 2 * PAGE + 9), munmap(6, PAGE)), {4: PAGE, 5: PAGE}),
    "the middle is unmapped": ((mmap(4, 3 * PAGE), munmap(5, PAGE)), {4: PAGE, 6: PAGE}),
    "one byte unmaps a page": ((mmap(4, 2 * PAGE), munmap(4, 1)), {5: PAGE}),
    "several are unmapped at once": (
        (mmap(1, PAGE), mmap(3, PAGE), mmap(5, 2 * PAGE), munmap(0, 6 * PAGE)),
        {6: PAGE},
    ),
    "what is not mapped is unmapped": ((mmap(4, PAGE), munmap(8, PAGE)), {4: PAGE}),
    "a length of 0 unmaps nothing": ((mmap(4, PAGE), munmap(4, 0)), {4: PAGE}),
    "an unaligned address unmaps nothing": (
        (mmap(4, 2 * PAGE), Step(RELEASE, 4 * PAGE + 1, PAGE)),
        {4: PAGE, 5: PAGE},
    ),
    "mapped over several": (
        (mmap(2, PAGE), mmap(4, PAGE), mmap(6, 2 * PAGE), mmap(1, 6 * PAGE - 1, 2)),
        {1: PAGE, 2: PAGE, 3: PAGE, 4: PAGE, 5: PAGE, 6: PAGE - 1, 7: PAGE},
    ),
    "mapped into the middle": ((mmap(2, 3 * PAGE), mmap(3, 7, 2)), {2: PAGE, 3: 7, 4: PAGE}),
    "mremap moves": ((mmap(2, 2 * PAGE), *mremap(2, 2 * PAGE, 8, 2 * PAGE)), {8: PAGE, 9: PAGE}),
    "mremap grows": ((mmap(2, PAGE), *mremap(2, PAGE, 2, 2 * PAGE)), {2: PAGE, 3: PAGE}),
    "mremap shrinks": ((mmap(2, 3 * PAGE), *mremap(2, 3 * PAGE, 2, PAGE + 3)), {2: PAGE, 3: 3}),
    "mremap moves a part": (
        (mmap(2, 3 * PAGE), *mremap(3, PAGE, 9, PAGE)),
        {2: PAGE, 4: PAGE, 9: PAGE},
    ),
    "mremap maps a second time": ((mmap(2, PAGE), *mremap(2, 0, 9, PAGE)), {2: PAGE, 9: PAGE}),
    "a failed call gives back": (
        (mmap(2, 3 * PAGE), munmap(3, PAGE), failed()),
        {2: PAGE, 3: PAGE, 4: PAGE},
    ),
    "each thread gets its own back": (
        (mmap(2, PAGE), mmap(4, PAGE), munmap(2, PAGE, 1), munmap(4, PAGE, 2), failed(1)),
        {2: PAGE},
    ),
    "a call that succeeds gives nothing back": (
        (mmap(2, PAGE), munmap(2, PAGE), munmap(8, PAGE), failed()),
        {},
    ),
    "an end past the address space": (
        (mmap(2, PAGE), Step(RELEASE, PAGE, (1 << 64) - 1), failed()),
        {2: PAGE},
    ),
    "the last page of the address space": (
        (Step(ADD, (1 << 64) - PAGE, PAGE), mmap(2, PAGE), munmap(2, PAGE)),
        {(1 << 64) // PAGE - 1: PAGE},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_by_name(name: str) -> None:
    steps, expected = CASES[name]
    ledger, model = followed(*steps)
    assert {page: held.bytes for page, held in pages_of(ledger).items()} == expected
    check(ledger, model)


def test_a_region_keeps_the_time_and_the_stack_of_its_call() -> None:
    ledger, _ = followed(mmap(2, 3 * PAGE, 7), munmap(3, PAGE), mmap(3, PAGE, 8))
    assert [(region.stack_id, region.time_ns) for region in ledger] == [(7, 70), (8, 80), (7, 70)]


def test_an_exec_forgets_everything() -> None:
    account = RegionAccount(tuple, frozenset)
    for step in (mmap(2, 3 * PAGE), mmap(8, PAGE), munmap(8, PAGE)):
        account.apply(step.event())
    account.clear()
    assert len(account.mapped) == 0
    assert account.mapped.freed() == {}
    assert len(account.mapped.records()[0]) == 0
    account.apply(failed().event())  # of a call that began before it
    assert list(account.mapped) == []


# --- by chance ---------------------------------------------------------------------------------

FIRST, SIZE = st.integers(0, 15), st.integers(1, 6 * PAGE)
ADDRESS = st.one_of(FIRST.map(lambda page: page * PAGE), st.integers(0, 16 * PAGE))
THREAD, STACK = st.integers(1, 2), st.integers(1, 3)
STEPS = st.one_of(
    st.builds(mmap, FIRST, SIZE, STACK, THREAD),
    st.builds(Step, st.just(RELEASE), ADDRESS, st.one_of(st.just(0), SIZE), THREAD),
    st.builds(failed, THREAD),
)


@given(st.lists(STEPS, max_size=40))
@example([mmap(0, 6 * PAGE), munmap(2, PAGE), mmap(2, PAGE, 2), failed()])
@example([mmap(0, 6 * PAGE), munmap(2, PAGE, 1), mmap(2, 9, 2, 2), failed(1)])
def test_any_calls(steps: list[Step]) -> None:
    check(*followed(*steps))


@given(st.lists(STEPS, max_size=20), FIRST, SIZE)
def test_covers(steps: list[Step], first: int, size: int) -> None:
    ledger, model = followed(*steps)
    asked = set(range(first, -(-(first * PAGE + size) // PAGE)))
    assert ledger.covers(first * PAGE, size) == (asked <= model.pages.keys())
    assert not ledger.covers(first * PAGE, 0)
