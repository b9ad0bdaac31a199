"""The heap of a Go program, against what the program itself says: runtime.MemStats and pprof."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.goroutines import BUILDS, await_file, started
from hypothesis import given, settings
from hypothesis import strategies as st

from leaktrace.arch.x86_64 import USER_SPACE_END
from leaktrace.go_report import HeapLook
from leaktrace.report.go_heap_text import collector_in_words
from leaktrace.runtimes.go.heap import Heap
from leaktrace.runtimes.go.heap_layouts import heap_layouts
from leaktrace.runtimes.go.heap_profile import ProfileRecord
from leaktrace.runtimes.go.memory import GoMemory
from leaktrace.runtimes.go.program import GoProgram, open_go_program
from leaktrace.runtimes.go.spans import SpanReader

Builder = Callable[[str], Path]
KEPT = 20_000
SLACK = 256 << 10  # what the program needs to give its account


def told_by(pid: int, truth: Path) -> dict[str, Any]:
    os.kill(pid, signal.SIGUSR1)
    told: dict[str, Any] = json.loads(await_file(truth))
    return told


def count_of(look: HeapLook, size: int) -> int:
    found = [seen.count for key, seen in look.sizes.items() if key.object_bytes == size]
    return sum(found)


@pytest.mark.parametrize("kind", BUILDS)
def test_the_heap_is_as_the_program_says(kind: str, go_heap: Builder, tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    with started(go_heap(kind), "keep", str(KEPT), str(truth)) as pid:
        program = open_go_program(pid)
        look = Heap(program).look()
        told = told_by(pid, truth)
    assert look.skipped_span_count == 0
    for ours, theirs in (
        (look.in_use_bytes, told["HeapAlloc"]),
        (look.spans_bytes, told["HeapInuse"]),
        (look.allocated_bytes, told["TotalAlloc"]),
        (look.stacks_bytes, told["StackInuse"]),
    ):
        assert abs(ours - theirs) <= SLACK
    # The scavenger of the runtime goes on giving pages back.
    idle = look.idle_bytes + look.released_bytes
    assert abs(idle - told["HeapIdle"]) <= 8 << 20
    assert look.collector.collections == told["NumGC"]
    assert look.collector.percent == 100
    assert look.collector.memory_limit_bytes is None
    assert abs(look.collector.live_bytes - told["HeapAlloc"]) <= SLACK
    by_size = {one["Size"]: one["Mallocs"] - one["Frees"] for one in told["BySize"]}
    for size in (16, 48, 4096, 10240):
        assert abs(count_of(look, size) - by_size[size]) <= 300 * (size == 16) + 20
    assert look.profile is None
    assert "switched off" in look.profile_problem
    assert program.version.minor is not None
    assert (look.types is not None) == (program.version.minor >= 22)
    if look.types is not None:
        counts = {key.name: seen.count for key, seen in look.types.types.items()}
        # An object whose type changes or is being written just then is counted as unknown.
        assert KEPT - look.types.unknown.count <= counts["main.Session"] <= KEPT
        assert counts["main.Large"] == KEPT // 200
        assert look.types.unknown.count <= 20


@pytest.mark.parametrize(
    ("env", "percent", "limit", "words"),
    [
        ({"GOGC": "off"}, -1, None, "GOGC=off: never collected"),
        ({"GOGC": "off", "GOMEMLIMIT": "1GiB"}, -1, 1 << 30, "only near GOMEMLIMIT, 1.0 GiB"),
        ({"GOGC": "250", "GOMEMLIMIT": "3GiB"}, 250, 3 << 30, "GOGC=250, GOMEMLIMIT 3.0 GiB"),
    ],
)
def test_settings_of_the_collector(
    env: Mapping[str, str], percent: int, limit: int | None, words: str, go_heap: Builder
) -> None:
    with started(go_heap("debian"), "grow", env=env) as pid:
        collector = Heap(open_go_program(pid)).look().collector
    assert (collector.percent, collector.memory_limit_bytes) == (percent, limit)
    assert words in collector_in_words(collector)


def named(program: GoProgram, stack: tuple[int, ...]) -> list[str]:
    return [program.lines(address)[0].function for address in stack]


Figures = tuple[int, int, int, int]


def records_of_pprof(text: str) -> tuple[Counter[tuple[tuple[int, ...], Figures]], dict[str, Any]]:
    """Of pprof's text: objects and bytes in use, and allocated, by stack; and the functions of each
    stack, without inner ones of the runtime."""
    found: Counter[tuple[tuple[int, ...], Figures]] = Counter()
    names: dict[str, Any] = {}
    stack: tuple[int, ...] = ()
    for line in text.splitlines():
        head = re.match(r"(\d+): (\d+) \[(\d+): (\d+)\] @ (.*)", line)
        # Allocations of pprof itself may have a record that counts nothing yet.
        if head is not None and head[3] != "0":
            stack = tuple(int(one, 16) for one in head[5].split())
            found[stack, (int(head[1]), int(head[2]), int(head[3]), int(head[4]))] += 1
            names[str(stack)] = []
        elif line.startswith("#\t") and str(stack) in names and line.count("\t") >= 3:
            names[str(stack)].append(re.sub(r"\+0x[0-9a-f]+$", "", line.split("\t")[2]))
        else:
            stack = ()
    return found, names


def figures(one: ProfileRecord) -> Figures:
    in_use = one.allocated - one.freed
    return in_use, in_use * one.size_bytes, one.allocated, one.allocated * one.size_bytes


@pytest.mark.parametrize("kind", BUILDS)
def test_the_profile_is_that_of_pprof(kind: str, go_heap_profile: Builder, tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    with started(go_heap_profile(kind), "keep", str(KEPT), str(truth)) as pid:
        program = open_go_program(pid)
        heap = Heap(program)
        look = heap.look()
        records, skipped_count = heap.profile.records()
        told_by(pid, truth)
        theirs, names = records_of_pprof((tmp_path / "truth.profile").read_text())
        ours = Counter((one.stack, figures(one)) for one in records)
        functions = {str(one.stack): named(program, one.stack) for one in records}
        assert skipped_count == 0
        assert len(theirs) >= 5
        assert ours == theirs
        for stack, expected in names.items():
            own = [one for one in expected if not one.startswith("runtime.")]
            assert [one for one in functions[stack] if not one.startswith("runtime.")] == own
        assert look.profile is not None and look.profile.rate_bytes == 512 << 10
        sizes: Counter[str] = Counter()
        for key, seen in look.profile.sites.items():
            sizes[named(program, key.stack)[0]] += seen.in_use_bytes
    # 20,000 of 4 KiB: scaled up, with the error of about 150 samples.
    assert sizes["main.keepSession"] == pytest.approx(KEPT * 4096, rel=0.5)


LAYOUT = heap_layouts(27)[0]


def heap_in_our_own_memory(spans: list[bytes]) -> tuple[SpanReader, object]:
    """A heap whose list of spans is ours to damage, at an address of this process."""
    size = LAYOUT.span_bytes + 8 & ~7
    room = np.zeros(LAYOUT.heap_spans + 24 + len(spans) * (8 + size), np.uint8)
    base = room.ctypes.data
    words = room[: len(room) & ~7].view(np.uint64)
    list_at = LAYOUT.heap_spans + 24
    spans_at = list_at + 8 * len(spans)
    words[LAYOUT.heap_spans // 8 :][:3] = [base + list_at, len(spans), len(spans)]
    for index, span in enumerate(spans):
        at = spans_at + index * size
        words[list_at // 8 + index] = base + at
        room[at : at + len(span)] = np.frombuffer(span, np.uint8)
    return SpanReader(GoMemory(os.getpid()), LAYOUT, base), room


def span(start: int, pages: int, size: int, elements: int, count: int, *, state: int = 1) -> bytes:
    raw = bytearray(LAYOUT.span_bytes)
    for at, number, width in (
        (24, start, 8),
        (32, pages, 8),
        (LAYOUT.span_elements, elements, 2),
        (LAYOUT.span_alloc_count, count, 2),
        (LAYOUT.span_class, 10, 1),
        (LAYOUT.span_state, state, 1),
        (LAYOUT.span_element_size, size, 8),
    ):
        raw[at : at + width] = number.to_bytes(width, "little")
    return bytes(raw)


def test_spans_that_make_no_sense_are_left_out_and_counted() -> None:
    good = span(0x10000, 1, 48, 170, 100)
    bad = [
        span(0x20000, 1, 48, 171, 100),  # more than there is room for
        span(0x20000, 1, 48, 100, 101),
        span(0x20001, 1, 48, 100, 10),
        span(0x20000, 1 << 50, 48, 100, 10),
        span(0x20000, 1, 48, 100, 10, state=7),
    ]
    dead = span(0x10000, 1, 48, 170, 100, state=0)
    reader, _room = heap_in_our_own_memory([good, *bad, dead])
    found = reader.read()
    assert found is not None
    assert found.count.tolist() == [100]
    assert found.skipped_count == len(bad)


def test_spans_that_share_pages_are_left_out() -> None:
    reader, _room = heap_in_our_own_memory(
        [span(0x20000, 4, 48, 100, 1), span(0x22000, 1, 48, 100, 2), span(0x40000, 1, 48, 100, 3)]
    )
    found = reader.read()
    assert found is not None
    assert found.count.tolist() == [3]
    assert found.skipped_count == 2


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(min_size=LAYOUT.span_bytes, max_size=LAYOUT.span_bytes), min_size=1))
def test_spans_may_be_anything(spans: list[bytes]) -> None:
    reader, _room = heap_in_our_own_memory(spans)
    found = reader.read()
    assert found is not None
    used = found.in_use
    assert 0 <= (found.count * found.element_size)[used].sum() <= USER_SPACE_END
    assert found.skipped_count + len(found.start) <= len(spans)
