"""What a report says of the growth of a process, compared with /proc/PID/status as the test reads
it, and with what the program has done."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from harness.compiling import Compiler
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Tracer, trace_work

pytestmark = pytest.mark.usefixtures("require_bpf")

MIB = 1 << 20
# What the C library and the program touch beside what they are told to: code, buffers, stacks.
ROOM = MIB


def resident_bytes(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.findall(r"^VmRSS:\s+(\d+) kB$", text, re.M)[0])


def explained(compiled: Compiler, directory: Path, *commands: str) -> dict[str, Any]:
    """The object of the final report, after these commands of resident.c."""
    grown = [0]

    def drive(target: Target) -> tuple[int, ...]:
        before = resident_bytes(target.pid)
        for command in commands:
            target.do(command)
        grown[0] = resident_bytes(target.pid) - before
        return ()

    traced = trace_work([compiled("resident.c"), directory], drive=drive)
    found: dict[str, Any] = traced.report.raw["explained"]
    # The kernel's figures may lag behind by some pages for each CPU.
    assert abs(found["resident_growth_bytes"] - grown[0]) <= ROOM
    parts = ("outstanding_held_bytes", "other_memory_bytes", "unexplained_bytes")
    assert found["resident_growth_bytes"] == sum(found[part] for part in parts)
    assert found["outstanding_bytes"] == traced.report.raw["outstanding"]["bytes"]
    return found


def test_blocks_of_malloc_explain_all(compiled: Compiler, tmp_path: Path) -> None:
    found = explained(compiled, tmp_path, "keep 32")
    assert found["outstanding_bytes"] == 32 * MIB
    assert 0 <= found["unexplained_bytes"] <= 2 * ROOM


def test_memory_that_the_allocator_keeps(compiled: Compiler, tmp_path: Path) -> None:
    found = explained(compiled, tmp_path, "keep 32", "free")
    assert 32 * MIB <= found["allocator_free_at_most_bytes"] <= 32 * MIB + 2 * ROOM
    assert found["unexplained_bytes"] >= found["allocator_free_at_most_bytes"]


def test_files_and_shared_memory(compiled: Compiler, tmp_path: Path) -> None:
    """By system calls that are not hooked. It is not the allocator that keeps them."""
    found = explained(compiled, tmp_path, "file 20", "shared 12")
    files = found["file_growth_bytes"] + found["shared_growth_bytes"]  # tmp_path may be a tmpfs
    assert 32 * MIB <= files <= 32 * MIB + ROOM
    assert found["shared_growth_bytes"] >= 12 * MIB
    assert found["unexplained_bytes"] >= 32 * MIB
    assert found["allocator_free_at_most_bytes"] <= ROOM


def test_the_line_of_the_text_report(compiled: Compiler) -> None:
    with Target([compiled("resident.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), NEVER) as tracer:
            tracer.await_armed()
            target.do("keep 8")
            outcome = tracer.stop()
    assert outcome.exit_code == 0, outcome.stderr
    (line,) = [one for one in outcome.stdout.splitlines() if "since attach: outstanding" in one]
    assert re.fullmatch(
        r"  RSS \+8\.\d MiB since attach: outstanding \+8\.0 MiB, rest \+\d+\.\d KiB", line
    )


def test_figures_that_cannot_be_compared(compiled: Compiler) -> None:
    with Target([compiled("resident.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, "-z", "100", NEVER) as tracer:
            tracer.await_armed()
            target.do("keep 8")
            outcome = tracer.stop()
    assert outcome.reports[-1].raw["explained"] is None
