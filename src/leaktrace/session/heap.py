"""One run of `leaktrace heap`: a look at the start, and one at each interval."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing

from leaktrace import units
from leaktrace.errors import NothingTracedError, TargetError
from leaktrace.heap.build import HeapBuilder
from leaktrace.heap.core_file import CoreFile
from leaktrace.heap.live import LiveHeap
from leaktrace.heap.memory import HeapMemory
from leaktrace.heap.walk import walk_heap
from leaktrace.heap.walked import WalkedHeap
from leaktrace.heap_report import HeapReport
from leaktrace.model import TARGET_ENDED
from leaktrace.notices import notify
from leaktrace.options import HeapOptions
from leaktrace.own.interrupts import Interrupts, NothingToEndError
from leaktrace.report import create_heap_reporter, open_output
from leaktrace.session.moments import moments
from leaktrace.targets.process import Process

_TRIES = 3  # a thread may be within malloc as it is stopped: 1 look in 300


def run_heap(options: HeapOptions) -> int:
    """Report until the process ends, the requested reports are written, or a signal comes.

    Returns the exit code. Raises LeaktraceError, and BrokenPipeError when the reader of the reports
    has closed the pipe.
    """
    with open_output(options.output) as output, Interrupts() as interrupts:
        reporter = create_heap_reporter(options.format, output.stream, sys.stderr)
        try:
            if options.core is not None:
                with interrupts.raised():
                    reporter.heap(_of_core(options))
                return 0
            assert options.pid is not None
            with interrupts.raised():
                process = Process(options.pid)
            with closing(process):
                for report in _reports(process, options, interrupts):
                    reporter.heap(report)
        except NothingToEndError:
            raise NothingTracedError(
                "interrupted before the first look was made", "nothing was seen: run it again"
            ) from None
    return 0


def _of_core(options: HeapOptions) -> HeapReport:
    assert options.core is not None
    with closing(CoreFile(options.core)) as core:
        memory = core.memory()
        heap = walk_heap(memory.image, memory.mappings)
        if heap is None:
            raise _unknown_allocator(f"{options.core}")
        return HeapBuilder(options.top).build(memory, heap, core=str(options.core))


def _reports(
    process: Process, options: HeapOptions, interrupts: Interrupts
) -> Iterator[HeapReport]:
    builder = HeapBuilder(options.top)
    live = LiveHeap(process, options.max_pause_ms)
    with interrupts.raised():
        first = builder.build(*_look(live.look, process.pid))
    yield first
    if options.interval_s is None:
        return
    count = options.count
    every = units.interval(options.interval_s)
    notify(f"looked at the heap of pid {process.pid}; again every {every}")
    for reason in moments(options.interval_s, count, interrupts, process):
        if reason == TARGET_ENDED:
            notify(f"process {process.pid} has ended")
            return
        try:
            look = _look(live.look, process.pid)
        except TargetError:
            if process.is_alive():
                raise
            notify(f"process {process.pid} has ended")
            return
        yield builder.build(*look, final_reason=reason)


def _look(look: Callable[[], HeapMemory], pid: int) -> tuple[HeapMemory, WalkedHeap]:
    """A heap that is whole, if one of some looks finds it so."""
    for left in reversed(range(_TRIES)):
        memory = look()
        heap = walk_heap(memory.image, memory.mappings)
        if heap is None:
            raise _unknown_allocator(f"process {pid}")
        if not heap.problems or not left:
            return memory, heap
    raise AssertionError


def _unknown_allocator(what: str) -> TargetError:
    return TargetError(
        f"{what} has no heap that leaktrace can walk: it uses another malloc than glibc's, or none",
        "with any allocator, `leaktrace -p PID --lost` looks at what is allocated from now on",
    )
