"""A tracer that can't be opened leaves nothing behind: no descriptor, no process, no probe."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.length import chosen
from harness.target import Target

from leaktrace.kernel.setup import open_kernel_tracer
from leaktrace.options import (
    CommandTarget,
    KernelOptions,
    KernelTarget,
    ProcessOptions,
    ProcessTarget,
    ReportOptions,
)
from leaktrace.process.setup import open_tracer

pytestmark = pytest.mark.usefixtures("require_bpf")

REPORT = ReportOptions(trace=True)
STAGES = [
    "process.setup.require_access",
    "process.setup.Keeper",
    "process.opening.ProcessSymbolizer",
    "process.setup.EventStream",
    "process.setup.Lifecycle",
    "process.opening.StackNames",
    "process.opening.Hooks.attach_first",
    "process.opening.Looks",
    "process.setup.Tracer",
]
KERNEL_STAGES = [
    "kernel.setup.plan_kernel",
    "kernel.setup.EventStream",
    "kernel.setup.KernelStacks",
]


def descriptors() -> set[tuple[str, str]]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add((entry.name, str(entry.readlink())))
        except FileNotFoundError:
            continue  # that of the folder
    return found


def children() -> set[str]:
    tasks = Path("/proc/self/task").iterdir()
    return {pid for task in tasks for pid in (task / "children").read_text().split()}


def check_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, stage: str, start: Callable[[], object]
) -> None:
    """Interrupt `start` at a stage, twice: descriptors that the first start opens once per run are
    not leaks."""

    def interrupt(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt(stage)

    monkeypatch.setattr(f"leaktrace.{stage}", interrupt)
    for is_first in (True, False):
        gc.collect()
        before = (descriptors(), children())
        with pytest.raises(KeyboardInterrupt, match=stage):
            start()
        gc.collect()
        if not is_first:
            assert (descriptors(), children()) == before


@pytest.mark.parametrize("stage", STAGES)
def test_of_a_process(stage: str, compiled: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    with Target([compiled("commands.c")]) as target:
        target.await_ready()
        options = ProcessOptions(target=ProcessTarget((target.pid,)), report=REPORT)
        check_nothing_is_left(monkeypatch, stage, lambda: open_tracer(options))
        target.send("exit 0")
        assert target.end() == 0


@pytest.mark.parametrize("stage", chosen(STAGES[1::2], STAGES[2::2]))
def test_of_a_command(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ProcessOptions(target=CommandTarget(("/bin/true",)), report=REPORT)
    check_nothing_is_left(monkeypatch, stage, lambda: open_tracer(options))


@pytest.mark.parametrize("stage", KERNEL_STAGES)
def test_of_the_kernel(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = KernelOptions(target=KernelTarget(), report=REPORT)
    check_nothing_is_left(monkeypatch, stage, lambda: open_kernel_tracer(options))
