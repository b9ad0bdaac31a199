"""Where the allocator of a Go program can be probed, and when it is left alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from harness.goroutines import BUILDS, started

from leaktrace.errors import TargetError
from leaktrace.runtimes.go.heap import Heap
from leaktrace.runtimes.go.program import GoProgram, open_go_program
from leaktrace.runtimes.go.refill_code import find_refill_code
from leaktrace.runtimes.go.version import GoVersion

REFILL, LARGE = "runtime.(*mcache).refill", "runtime.(*mcache).allocLarge"


@pytest.mark.parametrize("kind", BUILDS)
def test_the_probes_are_on_the_branches(kind: str, go_heap: Callable[[str], Path]) -> None:
    path = go_heap(kind)
    with started(path, "churn") as pid:
        program = open_go_program(pid)
        code = find_refill_code(program, Heap(program).variables.layout)
        for offset, name in ((code.refill, REFILL), (code.large, LARGE)):
            start = program.function_start(name)
            assert start is not None
            # What runs in the process is what the file has there: a branch of six bytes.
            of_file = path.read_bytes()[offset : offset + 6]
            assert of_file == program.memory.read(start + 4, 6)
            assert of_file[:2] == b"\x0f\x86"


@pytest.mark.parametrize("minor", [18, 20, 28, None])
def test_unknown_versions_are_left_alone(minor: int | None, go_heap: Callable[[str], Path]) -> None:
    with started(go_heap("debian"), "churn") as pid:
        program = open_go_program(pid)
        layout = Heap(program).variables.layout
        other = replace(program, version=GoVersion("devel", minor))
        with pytest.raises(TargetError, match="devel is not known here") as raised:
            find_refill_code(other, layout)
    assert "leave out --go-sample-refills" in raised.value.hint


@contextmanager
def patched(pid: int, address: int, code: bytes) -> Iterator[None]:
    """The process is stopped, and has other code at an address."""
    os.kill(pid, signal.SIGSTOP)
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        memory.seek(address)
        before = memory.read(len(code))
        memory.seek(address)
        memory.write(code)
        try:
            yield
        finally:
            memory.seek(address)
            memory.write(before)
            os.kill(pid, signal.SIGCONT)


def test_changed_code_is_left_alone(go_heap: Callable[[str], Path]) -> None:
    with started(go_heap("debian"), "churn") as pid:
        program = open_go_program(pid)
        layout = Heap(program).variables.layout
        expected = find_refill_code(program, layout)
        start = program.function_start(LARGE)
        assert start is not None
        with (
            patched(pid, start, b"\xe9\x00\x00\x00\x00"),
            pytest.raises(TargetError, match=r"has changed the code of .*allocLarge"),
        ):
            find_refill_code(program, layout)
        # Another tracer's breakpoint is no change.
        with patched(pid, start + 4, b"\xcc"):
            assert find_refill_code(program, layout) == expected


def test_code_that_begins_in_another_way_is_left_alone(go_heap: Callable[[str], Path]) -> None:
    class Other(GoProgram):
        def code_of(self, name: str, most_bytes: int = 1 << 16) -> tuple[int, bytes] | None:
            found = super().code_of(name, most_bytes)
            return None if found is None else (found[0], b"\x4c\x8d" + found[1][2:])

    with started(go_heap("debian"), "churn") as pid:
        program = open_go_program(pid)
        layout = Heap(program).variables.layout
        other = Other(**vars(program))
        with pytest.raises(TargetError, match=r"code of .*refill is not as expected"):
            find_refill_code(other, layout)
