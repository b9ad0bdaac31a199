"""The tests' program in a guest, which runs leaktrace: `python -m vm.inside WHAT …`.

    process PROGRAM [ARGUMENT…] -- [OPTION…]   trace one of the tests' programs while it works
    pipes KEPT CLOSED -- [OPTION…]             trace the kernel while pipes are opened
    module FILE COUNT SIZE -- [OPTION…]        trace the kernel while a module comes and goes

Prints leaktrace's final report, as JSON. leaktrace's messages go to stderr.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

from harness.reports import Report
from harness.tracer import ONE_REPORT, Tracer, trace_work


def trace_process(argv: Sequence[str], options: Sequence[str]) -> tuple[Report, str]:
    """From the target's `ready` to its `done`."""
    traced = trace_work(argv, *options)
    return traced.report, traced.stderr


def trace_kernel(
    options: Sequence[str], work: Callable[[Tracer], None], interval_s: float = 3600
) -> tuple[Report, str]:
    with Tracer("--kernel", *ONE_REPORT, *options, str(interval_s)) as tracer:
        tracer.stderr.until(lambda line: "tracing the kernel" in line)
        work(tracer)
        outcome = tracer.stop()
    assert outcome.exit_code == 0, outcome.stderr
    return outcome.reports[-1], outcome.stderr


def trace_pipes(arguments: Sequence[str], options: Sequence[str]) -> tuple[Report, str]:
    """Some pipes stay open until the report is written, some are closed before."""
    kept, closed = (int(argument) for argument in arguments)

    def open_pipes(_: Tracer) -> None:
        pipes = [os.pipe() for _ in range(kept + closed)]
        for descriptors in pipes[kept:]:
            for descriptor in descriptors:
                os.close(descriptor)

    return trace_kernel(options, open_pipes)


def trace_module(arguments: Sequence[str], options: Sequence[str]) -> tuple[Report, str]:
    """It is loaded, shown in a report and unloaded; then the final report follows."""
    path, count, size = arguments

    def load_and_unload(tracer: Tracer) -> None:
        subprocess.run(["insmod", path, f"count={count}", f"size={size}"], check=True)
        while not tracer.next_report().sites_under("keep_block"):
            pass
        subprocess.run(["rmmod", "leakmod"], check=True)

    return trace_kernel(options, load_and_unload, interval_s=1)


_COMMANDS = {"process": trace_process, "pipes": trace_pipes, "module": trace_module}


def main() -> None:
    what, *words = sys.argv[1:]
    end = words.index("--")
    report, stderr = _COMMANDS[what](words[:end], words[end + 1 :])
    print(json.dumps(report.raw))
    print(stderr, file=sys.stderr)


if __name__ == "__main__":
    main()
