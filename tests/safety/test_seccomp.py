"""A target that may make few system calls survives tracing.

Since Linux 6.11 a return probe makes the target call uretprobe(2), which no filter allows. Filters
let it pass since "seccomp: passthrough uretprobe systemcall without filtering" (6.14, and in stable
kernels since February 2025); kernels in between kill the target.
"""

from __future__ import annotations

import pytest
from harness.compiling import Compiler
from harness.probes import offset_of
from harness.reports import Total
from harness.target import Target
from harness.text import probed
from harness.tracer import trace_work

from leaktrace.bpf.links import UprobeLinks

pytestmark = pytest.mark.usefixtures("require_bpf")

KEPT = Total(6400, 100)


def test_a_filtered_target_is_traced(compiled: Compiler) -> None:
    report = trace_work([compiled("seccomp_filtered.c")]).report
    assert report.outstanding == KEPT
    assert report.under("scenario_malloc") == KEPT
    assert report.losses == {}


def test_probes_without_return_need_no_system_call(compiled: Compiler, kind: UprobeLinks) -> None:
    """On any kernel, for functions of the target that are probed at their first instruction, which
    may be single-stepped."""
    program = compiled("seccomp_filtered.c")
    functions = ["scenario_malloc", "main"]
    with Target([program]) as target:
        target.await_ready()
        offsets = [offset_of(program, function) for function in functions]
        with probed(kind, program, offsets, target.pid):
            assert target.do() == (KEPT.bytes, KEPT.count)
        assert target.end() == 0
