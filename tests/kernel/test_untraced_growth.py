"""Kernel memory that grows in an allocator that isn't traced: the report names the option that
shows it. The test creates BPF maps that are large compared with other activity on the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.reports import Report
from harness.tracer import NEVER, ONE_REPORT, Tracer

from leaktrace.bpf import syscalls
from leaktrace.errors import EnvironmentUnfitError
from leaktrace.machine.features import require_kernel_mode

_ARRAY, _PERCPU_ARRAY = 2, 6  # enum bpf_map_type, include/uapi/linux/bpf.h
pytestmark = pytest.mark.alone("it sees what the whole machine allocates")

MIB = 1 << 20
VMALLOC_BYTES = 96 * MIB
PERCPU_VALUE_BYTES, PERCPU_ENTRIES = 8192, 1024


@pytest.fixture(scope="module", autouse=True)
def require_kernel(require_root: None) -> None:
    """Skip unless the kernel can be traced on this machine."""
    try:
        require_kernel_mode()
    except EnvironmentUnfitError as error:
        pytest.skip(f"{error.message}: {error.hint}")


@contextmanager
def array_of(entries: int, value_bytes: int, kind: int = _ARRAY) -> Iterator[None]:
    """A map whose entries are all allocated."""
    descriptor = syscalls.create_map(
        syscalls.MapDefinition("grown", kind, 4, value_bytes, entries, flags=0)
    )
    try:
        yield
    finally:
        os.close(descriptor)


def meminfo_bytes(field: str) -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    (found,) = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(found) * 1024


@contextmanager
def tracing(*options: str) -> Iterator[Tracer]:
    with Tracer("--kernel", *options, NEVER) as tracer:
        tracer.stderr.until(lambda line: "tracing the kernel" in line)
        yield tracer


def untraced(report: Report) -> dict[str, tuple[str, int]]:
    """Option and bytes by section."""
    assert report.final
    return {one["section"]: (one["option"], one["grown_bytes"]) for one in report.raw["untraced"]}


def test_vmalloc_that_was_not_requested() -> None:
    with tracing(*ONE_REPORT) as tracer:
        before = meminfo_bytes("VmallocUsed")
        with array_of(VMALLOC_BYTES // 4096, 4096):
            if meminfo_bytes("VmallocUsed") - before < VMALLOC_BYTES / 2:
                pytest.skip("this kernel does not report what vmalloc holds (before Linux 5.3)")
            outcome = tracer.stop()
    assert outcome.exit_code == 0, outcome.stderr
    option, grown_bytes = untraced(outcome.reports[-1])["vmalloc"]
    assert option == "--vmalloc"
    assert VMALLOC_BYTES / 2 < grown_bytes < VMALLOC_BYTES * 2


def test_per_cpu_memory_that_was_not_requested() -> None:
    expected = PERCPU_VALUE_BYTES * PERCPU_ENTRIES * syscalls.possible_cpus()
    with tracing(*ONE_REPORT) as tracer:
        before = meminfo_bytes("Percpu")
        with array_of(PERCPU_ENTRIES, PERCPU_VALUE_BYTES, _PERCPU_ARRAY):
            grown = meminfo_bytes("Percpu") - before
            outcome = tracer.stop()
    assert grown > expected / 2
    option, grown_bytes = untraced(outcome.reports[-1])["percpu"]
    assert option == "--percpu"
    assert expected / 2 < grown_bytes < expected * 2


def test_in_words() -> None:
    with tracing("-T", "1") as tracer, array_of(VMALLOC_BYTES // 4096, 4096):
        outcome = tracer.stop()
    lines = [line for line in outcome.stdout.splitlines() if "not traced: " in line]
    assert len(lines) == 1
    assert "vmalloc +" in lines[0]
    assert "(--vmalloc)" in lines[0]


@pytest.mark.parametrize("options", [("--vmalloc",), ("--task", str(os.getpid()))])
def test_what_was_requested_or_filtered_out(options: tuple[str, ...]) -> None:
    with tracing(*ONE_REPORT, *options) as tracer, array_of(VMALLOC_BYTES // 4096, 4096):
        outcome = tracer.stop()
    assert outcome.exit_code == 0, outcome.stderr
    assert "vmalloc" not in untraced(outcome.reports[-1])
