"""A process that has patched its own allocator is not probed there: the kernel would execute the
instructions of the file."""

from __future__ import annotations

import os

import pytest
from harness.compiling import Compiler
from harness.reports import Total
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Tracer
from harness.wording import the_note

pytestmark = [
    pytest.mark.usefixtures("require_bpf"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the patch is x86-64's"),
]


@pytest.mark.alone("its return probes hide callers from other tracers")
@pytest.mark.parametrize("options", [(), ("--probe-returns",)], ids=["points", "returns"])
def test_a_patched_function_is_left_alone(compiled: Compiler, options: tuple[str, ...]) -> None:
    with Target([compiled("patched.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *options, *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            assert target.do() == (16_000, 1000)  # each by the hook
            report = tracer.stop().reports[-1]
        assert target.end() == 0
    assert report.under("main") == Total()
    the_note(report, "malloc", "code", "memory", "file")


def test_a_function_that_is_patched_while_it_is_traced_stays_patched(compiled: Compiler) -> None:
    """A removed probe is restored only where the file's instruction is in memory."""
    with Target([compiled("patched.c"), "later"]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), "-f", "json", "-o", "0", "0.2") as tracer:
            tracer.await_armed()
            tracer.next_report()
            target.send()
            report = next(r for r in iter(tracer.next_report, None) if r.raw["target"]["notes"])
            for _ in range(2):  # it has checked the probes, and checks again
                report = tracer.next_report()
            assert target.do() == (16_000, 1000)  # each by the hook
            tracer.stop()
        assert target.end() == 0
    the_note(report, "patched", "own code", "probes")
