"""Reports of a Go program whose memory contains anything: the program is real, and what is read of
it is damaged on the way."""

from __future__ import annotations

import io
import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from harness.goroutines import BUILDS, started
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from leaktrace.analysis.go_reports import GoFile, GoReports, summary_of
from leaktrace.errors import TargetError
from leaktrace.report import create_go_reporter
from leaktrace.runtimes.go.goroutines import Goroutines
from leaktrace.runtimes.go.heap import Heap
from leaktrace.runtimes.go.heap_types import TypeReader
from leaktrace.runtimes.go.memory import GoMemory, Pieces, Words
from leaktrace.runtimes.go.program import GoProgram, Span, open_go_program
from leaktrace.runtimes.go.spans import Spans

MOST_S = 20.0
MOST_READ_BYTES = 256 << 20  # the program itself has about 100 MB
HOSTILE_NAME = b"\x1b[2J\r\n\xff\xe2\x80\xae"
NUMBERS = (0, 1, 7, 255, 1 << 31, 1 << 47, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


class DamagedMemory(GoMemory):
    """Some words of what is read are others, once `is_damaging`."""

    def __init__(self, pid: int, seed: int, share: float) -> None:
        super().__init__(pid)
        self._random = np.random.default_rng(seed)
        self._share = share
        self.is_damaging = False
        self.read_bytes = 0

    def gather(self, addresses: Words, sizes: NDArray[np.int64]) -> Pieces:
        found = super().gather(addresses, sizes)
        self.read_bytes += len(found.data)
        words = found.data[: len(found.data) // 8 * 8].view(np.uint64)
        count = self._random.binomial(len(words), self._share) if self.is_damaging else 0
        for place in self._random.integers(0, max(len(words), 1), count).tolist():
            words[place] = self._other(words, int(words[place]))
        return found

    def _other(self, words: Words, word: int) -> int:
        kind = int(self._random.integers(5))
        if kind == 0:
            return int(self._random.integers(0, 1 << 64, dtype=np.uint64))
        if kind == 1:
            return NUMBERS[int(self._random.integers(len(NUMBERS)))]
        if kind == 2:  # elsewhere in the same, or another object
            return int(words[int(self._random.integers(len(words)))])
        if kind == 3:
            return int.from_bytes(HOSTILE_NAME[:8], "little")
        return word ^ 1 << int(self._random.integers(64))


@pytest.fixture(scope="module", params=BUILDS)
def program(
    request: pytest.FixtureRequest, go_heap_profile: Callable[[str], Path]
) -> Iterator[GoProgram]:
    """One with objects of many sizes, and a profile."""
    with started(go_heap_profile(request.param), "keep", "2000", "/dev/null") as pid:
        yield open_go_program(pid)


def report_of(program: GoProgram, memory: DamagedMemory, *, is_damaged_first: bool) -> list[str]:
    """What is written about the program: text and JSON, after two looks."""
    memory.is_damaging = is_damaged_first
    goroutines, heap = Goroutines(program), Heap(program)
    memory.is_damaging = True

    def lines(address: int, is_behind_call: bool) -> Any:
        return program.lines(address, is_return_address=is_behind_call)

    reports = GoReports(program.pid, GoFile(program.path, program.version.text), 20, lines)
    for _ in range(2):
        reports.look(goroutines.look())
        reports.look_at_heap(heap.look())
        goroutines.is_there()
    report = reports.build(number=1, command="", reason="")
    summary_of(report)
    written = []
    for name in ("text", "json"):
        output = io.StringIO()
        create_go_reporter(name, output, io.StringIO()).go(report)
        written.append(output.getvalue())
    return written


def check_output(text: str, json_line: str) -> None:
    text.encode()  # no surrogates
    assert all(line.isprintable() for line in text.split("\n"))
    assert json_line.count("\n") == 1
    json_line.encode()
    for word in _strings(json.loads(json_line)):
        assert word.isprintable(), word


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from (key, *_strings(one))
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.integers(0, 1 << 32),
    st.sampled_from([1e-5, 1e-4, 1e-3, 1e-2, 0.2, 1.0]),
    st.booleans(),
)
def test_damaged_memory(program: GoProgram, seed: int, share: float, is_first: bool) -> None:
    """There is a report, or an error of two lines; soon, and without reading more than there is."""
    memory = DamagedMemory(program.pid, seed, share)
    damaged = replace(program, memory=memory)
    began_s, most_kib = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        written = report_of(damaged, memory, is_damaged_first=is_first)
    except TargetError as error:
        assert error.message.isprintable()
        assert error.hint
    else:
        check_output(*written)
    assert time.monotonic() - began_s < MOST_S
    assert memory.read_bytes < MOST_READ_BYTES
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most_kib
    assert grown_kib < MOST_READ_BYTES // 1024


def test_undamaged_memory_is_read_as_it_is(program: GoProgram) -> None:
    """The damage is all that makes a difference."""
    memory = DamagedMemory(program.pid, 1, 0.0)
    text, json_line = report_of(replace(program, memory=memory), memory, is_damaged_first=True)
    check_output(text, json_line)
    report = json.loads(json_line)
    assert sum(report["skipped"].values()) == 0 or set(report["skipped"]) >= {"running"}
    kept = [one for one in report["heap"]["sizes"] if one["object_bytes"] == 4096]
    assert [one["count"] for one in kept] == [pytest.approx(2000, abs=20)]
    assert report["heap"]["profile"] is not None


# --- types -----------------------------------------------------------------------------------

ROOM = 1 << 14


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_types_of_arbitrary_data(data: st.DataObject) -> None:
    """Objects, and data of types, of which anything may be true. Each object is counted once."""
    numbers = data.draw(st.integers(0, 1 << 32))
    random = np.random.default_rng(numbers)
    memory = np.frombuffer(random.bytes(ROOM), np.uint64).copy()
    base = memory.ctypes.data
    inside = random.integers(0, ROOM // 8, 64) * 8
    # Some words lead to data of types, whose names are somewhere in it, too.
    memory[inside[:32] // 8] = base + inside[32:]
    start, size = sorted(data.draw(st.tuples(st.integers(0, ROOM), st.integers(0, ROOM))))
    types = Span(base + start, base + start + size)
    count = data.draw(st.integers(1, 12))
    wild = data.draw(st.booleans())

    def numbers_of(most: int) -> NDArray[np.int64]:
        return random.integers(0, most, count)

    element_size = 8 * (65 + numbers_of(64))
    spans = Spans(
        address=np.zeros(count, np.uint64),
        start=base + 8 * numbers_of(ROOM // 16) + (numbers_of(1 << 62) if wild else 0),
        pages=np.ones(count, np.int64),
        element_size=element_size,
        elements=numbers_of(1 << 8),
        count=numbers_of(1 << 8),
        kind=numbers_of(136),
        state=numbers_of(3),
        free_index=numbers_of(1 << 16),
        alloc_bits=base + 8 * numbers_of(ROOM // 16),
        large_type=np.array(random.choice(memory, count), np.uint64).view(np.int64),
    )
    program = SimpleNamespace(memory=GoMemory(os.getpid()), types=types)
    reader = TypeReader(cast(GoProgram, program))
    look = reader.look(spans)
    assert reader.look(spans) == look
    typed = spans.in_use & spans.has_pointers
    wide = typed & ~spans.is_large & (spans.elements <= 128)
    most = int((typed & spans.is_large).sum() + spans.elements[wide].sum())
    seen = look.unknown.count + sum(one.count for one in look.types.values())
    assert int((typed & spans.is_large).sum()) <= seen <= most
    for key, one in look.types.items():
        assert key.name
        assert 0 <= key.size_bytes <= one.size_bytes
        assert len(key.name) <= 512
