"""One run of `leaktrace heap`: a look at the start, and one at each interval."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing

from leaktrace import units
from leaktrace.errors import LeaktraceError, NothingTracedError, TargetError
from leaktrace.heap.build import HeapBuilder
from leaktrace.heap.core_file import CoreFile
from leaktrace.heap.live import LiveHeap
from leaktrace.heap.memory import HeapMemory
from leaktrace.heap.walk import walk_heap
from leaktrace.heap.walked import WalkedHeap
from leaktrace.heap_report import HeapReport
from leaktrace.model import TARGET_ENDED
from leaktrace.notices import hint, notify
from leaktrace.options import HeapOptions
from leaktrace.own.interrupts import Interrupts, NothingToEndError
from leaktrace.own.oom import be_the_first_victim
from leaktrace.printable import printable
from leaktrace.report import create_heap_reporter, open_output
from leaktrace.runtimes.go.program import open_go_program
from leaktrace.session.moments import moments
from leaktrace.targets.mappings import read_mappings
from leaktrace.targets.process import Process

_TRIES = 3  # a thread may be within malloc as it is stopped: 1 look in 300


def run_heap(options: HeapOptions) -> int:
    """Report until the process ends, the requested reports are written, or a signal comes.

    Returns the exit code. Raises LeaktraceError, and BrokenPipeError when the reader of the reports
    has closed the pipe.
    """
    be_the_first_victim()  # rather than the process, since it takes as much memory
    with (
        Interrupts() as interrupts,
        open_output(options.output, is_ending=interrupts.is_received) as output,
    ):
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
        heap = _walk(memory)
        if heap is None and memory.unread_bytes:
            raise TargetError(
                f"{printable(str(options.core))} was cut off, and no heap is in what is left: "
                f"{units.size(memory.unread_bytes)} are missing",
                "write it again without a limit (ulimit -c unlimited), or with gcore",
            )
        if heap is None:
            raise TargetError(*_unknown_allocator(printable(str(options.core))))
        builder = HeapBuilder(options.top, asks_holders=options.holders)
        return builder.build(memory, heap, core=str(options.core))


def _reports(
    process: Process, options: HeapOptions, interrupts: Interrupts
) -> Iterator[HeapReport]:
    with interrupts.raised():
        _refuse_only_go(process.pid)
    builder = HeapBuilder(options.top, asks_holders=options.holders)
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
        if interrupts.received is not None:
            return  # the process is not stopped once more for that
        try:
            with interrupts.raised():
                report = builder.build(*_look(live.look, process.pid), final_reason=reason)
        except NothingToEndError:
            return
        except TargetError as error:
            if not process.is_alive():
                notify(f"process {process.pid} has ended")
                return
            notify(error.message)  # the next look may do
            hint(error.hint)
            continue
        yield report


def _refuse_only_go(pid: int) -> None:
    """Raise TargetError for a Go program without libraries, before it is stopped."""
    try:
        program = open_go_program(pid)
    except LeaktraceError:
        return
    code = {one.path for one in read_mappings(pid) if one.is_file and one.is_executable}
    if len(code) == 1:
        raise TargetError(
            f"process {pid} is a Go program ({printable(program.version.text)}), whose heap is "
            "Go's own",
            f"leaktrace go -p {pid} shows it",
        )


def _look(look: Callable[[], HeapMemory], pid: int) -> tuple[HeapMemory, WalkedHeap]:
    """A heap that is whole, if one of some looks finds it so."""
    for left in reversed(range(_TRIES)):
        memory = look()
        heap = _walk(memory)
        if heap is None:
            message, advice = _unknown_allocator(f"process {pid}")
            raise TargetError(
                message,
                f"{advice}; with any malloc, `leaktrace -p PID --lost` sees what is allocated now",
            )
        if not heap.problems or not left:
            return memory, heap
    raise AssertionError


def _walk(memory: HeapMemory) -> WalkedHeap | None:
    pointers = [one.thread_pointer for one in memory.threads]
    return walk_heap(memory.image, memory.mappings, pointers)


def _unknown_allocator(what: str) -> tuple[str, str]:
    return (
        f"{what} has no heap that leaktrace can walk",
        "it knows the malloc of glibc and that of musl, once blocks were allocated and freed",
    )
