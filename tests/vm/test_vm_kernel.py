"""Kernel allocations on other kernels, by tracepoints and by kprobes: exact figures on each."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from harness.tracer import REPOSITORY
from vm.guest import Guest

KEPT, CLOSED = 200, 100
# struct pipe_buffer has 40 bytes, and a pipe 16 of them (include/linux/pipe_fs_i.h).
RING_BYTES = 16 * 40

BLOCKS, BLOCK_BYTES = 50, 1000

# What other code of the kernel does meanwhile: frees by RCU or in bulk, events within interrupts.
ELSEWHERE = {"missed_frees", "recursion_misses"}

PROBES = ["tracepoint", "kprobe"]
# The kernel skips a kprobe that hits during another BPF program on its CPU: a free may be missed.
SKIPPED: dict[str, set[str]] = {"tracepoint": set(), "kprobe": {"missed_frees"}}


@pytest.mark.parametrize("probes", PROBES)
def test_pipes(guest: Guest, probes: str) -> None:
    """Each takes two allocations of alloc_pipe_info: itself, and its ring of buffers."""
    report = guest.trace(
        "pipes", str(KEPT), str(CLOSED), options=["--kernel-probes", probes]
    ).report
    sites = report.sites_under("alloc_pipe_info")
    assert [site.total.count for site in sites] == [KEPT, KEPT]
    ring, pipe = sites  # the larger first
    assert ring.raw["requested_bytes"] == KEPT * RING_BYTES
    assert ring.total.bytes == KEPT * 1024
    assert pipe.raw["requested_bytes"] % KEPT == 0
    assert pipe.total.bytes % KEPT == 0
    for site in sites:
        assert site.functions[0] == "alloc_pipe_info"
        assert site.raw["stack_end"] == "complete"
        assert site.raw["context"] == "process"
        assert site.raw["allocated_count"] == KEPT + CLOSED
        assert site.raw["freed_count"] == CLOSED
    assert report.lost_allocations.keys() <= ELSEWHERE


@pytest.fixture(scope="module")
def leaking_module(guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """examples/kernel-module, built on the host for the guest's kernel."""
    folder = tmp_path_factory.mktemp("module")
    for source in (REPOSITORY / "examples/kernel-module").glob("[lM]*"):
        shutil.copy(source, folder)
    command = ["make", "-C", str(folder), *guest.kernel.build_arguments]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder / "leakmod.ko"


@pytest.mark.builds_modules
@pytest.mark.parametrize("probes", PROBES)
def test_a_module_that_leaks(guest: Guest, leaking_module: Path, probes: str) -> None:
    """Its leaks are reported with names, also after it is unloaded."""
    report = guest.trace(
        "module", leaking_module, str(BLOCKS), str(BLOCK_BYTES),
        options=["--kernel-probes", probes],
    ).report  # fmt: skip
    (site,) = report.sites_under("keep_block")
    assert site.total.count == BLOCKS
    assert site.raw["requested_bytes"] == BLOCKS * BLOCK_BYTES
    assert site.total.bytes == BLOCKS * 1024
    assert site.functions[0] == "keep_block"
    assert site.frames[0].module == "leakmod"
    assert "do_init_module" in site.functions
    assert report.sites_under("borrow_block") == ()
    assert report.lost_allocations.keys() <= ELSEWHERE
