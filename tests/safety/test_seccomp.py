"""A target that may make few system calls lives on while it is traced.

A return probe has the target make one that no filter knows, uretprobe(2), since Linux 6.11. Filters
let it pass since "seccomp: passthrough uretprobe systemcall without filtering" (6.14, and in stable
kernels since February 2025); kernels between kill.
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
    """On any kernel, the target's own functions probed at their first instruction, which it makes
    no difference to be stepped."""
    program = compiled("seccomp_filtered.c")
    functions = ["scenario_malloc", "main"]
    with Target([program]) as target:
        target.await_ready()
        offsets = [offset_of(program, function) for function in functions]
        with probed(kind, program, offsets, target.pid):
            assert target.do() == (KEPT.bytes, KEPT.count)
        assert target.end() == 0
