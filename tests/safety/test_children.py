"""Children that are forked while their parent is traced soon run without breakpoints: their code is
restored from the file, and the parent's probes stay."""

from __future__ import annotations

import time

import pytest
from harness.changed_text import changed_bytes
from harness.compiling import Compiler
from harness.lines import DEADLINE_S
from harness.reports import Total
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Tracer

from leaktrace.bpf import links

pytestmark = [pytest.mark.usefixtures("require_bpf"), pytest.mark.may_skip("older kernels")]


def await_clean(pid: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while changed_bytes(pid):
        assert time.monotonic() < deadline, "the child has its parent's breakpoints still"
        time.sleep(0.05)


@pytest.mark.skipif(
    not links.has_uprobe_multi(),
    reason="the kernel removes perf events from a child itself, each at its first hit",
)
def test_a_child_loses_its_parents_breakpoints(compiled: Compiler) -> None:
    with Target([compiled("forker.c")]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer:
            tracer.await_armed()
            children = [target.do("fork")[0] for _ in range(3)]
            for child in children:
                await_clean(child)
            assert changed_bytes(target.pid)
            # Its probes count as before, and later children are repaired as well.
            late, kept = target.do("fork")
            await_clean(late)
            report = tracer.stop().reports[-1]
        assert report.under("scenario_parent") == Total(kept * 1000, kept)
        assert report.losses == {}
        assert changed_bytes(target.pid) == []
        assert target.end() == 0
