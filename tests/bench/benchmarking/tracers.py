"""The compared ways to trace a process, as context managers: probes are attached inside."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from harness.lines import Lines
from harness.tracer import NEVER, Tracer, run_leaktrace

from benchmarking import REPOSITORY
from leaktrace.bpf import links, support
from leaktrace.options import ObjectChoice
from leaktrace.process.probes.object_plan import Way
from leaktrace.process.probes.planner import Planner

Attach = Callable[[int], AbstractContextManager[object]]

REPORT_DEADLINE_S = 180.0
_SYSTEM_PYTHON = "/usr/bin/python3"  # the one that the distribution's bcc is made for
_RUN_MEMLEAK = Path(__file__).with_name("run_memleak.py")


class UnavailableError(Exception):
    """Something to compare with is missing, or can't do this. The message says why."""


def untraced(_pid: int) -> AbstractContextManager[object]:
    return contextlib.nullcontext()


def leaktrace(*options: str, interval: str = NEVER) -> Attach:
    """leaktrace with these options; no report unless an interval is given."""

    @contextlib.contextmanager
    def attach(pid: int) -> Generator[Tracer, None, None]:
        with Tracer("-p", str(pid), *options, interval) as tracer:
            tracer.await_armed()
            yield tracer
            if tracer.process.poll() is None:
                tracer.stop(signal.SIGTERM)

    return attach


def has_option(option: str) -> bool:
    """Whether this leaktrace has an option, by its own help."""
    return option in run_leaktrace("--help").stdout.split()


class Memleak:
    """A running memleak-bpfcc, whose probes are attached. It reports on request."""

    def __init__(self, *arguments: str, through: Sequence[str] = ()) -> None:
        """`through`: a command that runs it. Raises UnavailableError where it isn't installed, or
        can't trace this."""
        self.process = subprocess.Popen(
            [*through, *memleak_command(*arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=memleak_environment(),
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.stdout = Lines(self.process.stdout, "memleak's stdout")
        self.stderr = Lines(self.process.stderr, "memleak's stderr")
        self._await_asleep()

    @property
    def pid(self) -> int:
        return self.process.pid

    def _await_asleep(self) -> None:
        for line in iter(lambda: self.stderr.next(REPORT_DEADLINE_S), None):
            if line == "asleep":
                return
        self.process.wait()
        said = [line for line in self.stderr.seen if line.strip()] or ["?"]
        raise UnavailableError(f"memleak can't trace this process: {said[-1]}")

    def report(self) -> None:
        """Request a report, and wait until it is written."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        self._await_asleep()

    def end(self) -> list[str]:
        """Kill it: the kernel detaches its probes before the process has ended. Returns what it
        wrote."""
        self.process.kill()
        self.process.wait()
        self.stdout.rest()
        return self.stdout.seen


def memleak_command(*arguments: str) -> list[str]:
    """Raises UnavailableError where memleak isn't installed."""
    program = shutil.which("memleak-bpfcc") or shutil.which("memleak", path="/usr/share/bcc/tools")
    if program is None:
        raise UnavailableError("memleak is not installed (Debian, Ubuntu: bpfcc-tools)")
    return [_SYSTEM_PYTHON, str(_RUN_MEMLEAK), program, *arguments]


def memleak_environment() -> dict[str, str]:
    """So that it compiles without kernel headers, as fast as leaktrace does."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {
        **inherited,
        "PYTHONUNBUFFERED": "1",
        "BCC_KERNEL_SOURCE": str(REPOSITORY / "bpf"),
    }


def memleak(*options: str, interval: str = NEVER) -> Attach:
    """memleak-bpfcc with these options."""

    @contextlib.contextmanager
    def attach(pid: int) -> Generator[Memleak, None, None]:
        tracer = Memleak("-p", str(pid), *options, interval)
        try:
            yield tracer
        finally:
            tracer.end()

    return attach


@contextlib.contextmanager
def empty_probes(pid: int) -> Generator[None, None, None]:
    """Programs that do nothing where leaktrace has its probes: the points of malloc, and free's
    entry. This is the cost of a tracer whose own work costs nothing."""
    with _probed(pid, way=Way.POINTS):
        yield


@contextlib.contextmanager
def empty_return_probes(pid: int) -> Generator[None, None, None]:
    """The same with malloc's entry and return in place of its points."""
    with _probed(pid, way=Way.RETURNS):
        yield


@contextlib.contextmanager
def _probed(pid: int, *, way: Way) -> Generator[None, None, None]:
    together = links.has_uprobe_multi()
    program = support.load_empty_program(links.uprobe_links().attach_type)
    descriptors = [program]

    def attach(path: str, offsets: list[int], *, is_return: bool = False) -> None:
        if together:
            link = links.attach_uprobes(
                program,
                path,
                offsets,
                [0] * len(offsets),
                pid=pid,
                is_return=is_return,
            )
            descriptors.append(link)
            return
        for offset in offsets:
            descriptors.extend(
                links.attach_uprobe_event(program, path, offset, 0, pid=pid, is_return=is_return)
            )

    try:
        for plan in Planner(ObjectChoice(), way=way).plan_process(pid):
            by_symbol = {probe.hook.symbol: probe.offset for probe in plan.probes}
            attach(plan.attach_path, [by_symbol["free"]])
            if "malloc" in by_symbol:
                attach(plan.attach_path, [by_symbol["malloc"]], is_return=True)
                attach(plan.attach_path, [by_symbol["malloc"]])
            for one in plan.followed:
                if one.hook.symbol == "malloc" and one.probes:
                    attach(plan.attach_path, sorted({probe.offset for probe in one.probes}))
            plan.elf.close()
        yield
    finally:
        for descriptor in reversed(descriptors):
            os.close(descriptor)
