"""Stacks through code without a file: the vDSO, trampolines, generated code."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.reports import Report, Site, Total
from harness.stacks import assert_called_by, ended, next_look
from harness.target import Target
from harness.tracer import NEVER, ONE_REPORT, Tracer, trace_work

pytestmark = pytest.mark.usefixtures("require_bpf")

OFTEN = "0.2"


def test_through_the_vdso(compiled: Compiler) -> None:
    """Its unwind tables are in its memory only."""
    report = trace_work([compiled("stack_vdso.c")]).report
    assert report.outstanding == Total(350, 5)
    assert report.losses == {}
    for site in report.sites:
        assert_called_by(site, "handler")
        assert "[vdso]" in [frame.module for frame in site.frames]
        assert site.functions.index("scenario_vdso") < site.functions.index("main")


@pytest.mark.alone("its return probes hide callers from other tracers")
@pytest.mark.parametrize("others", [0, 1])
def test_a_signal_at_the_end_of_a_return_probe(compiled: Compiler, others: int) -> None:
    """Under trace much time is spent in probes, so that is where many signals are delivered. On the
    return path from the kernel the return address is on the stack again, and the walk finds it. The
    same holds when leaktrace traces another process, whose probes are in the same library."""
    # Bound at its start, because _dl_runtime_resolve can't be unwound.
    program = compiled("stack_kinds.cpp", "-O2", "-fomit-frame-pointer", "-Wl,-z,now")
    with ExitStack() as running:
        for _ in range(others):
            other = running.enter_context(Target([program])).await_ready()
            others_tracer = Tracer("-p", str(other.pid), "--probe-returns", NEVER)
            running.enter_context(others_tracer).await_armed()
        target = running.enter_context(Target([program, "anywhere"])).await_ready()
        options = ("--probe-returns", *ONE_REPORT, "--no-lines")
        with Tracer("-p", str(target.pid), *options, OFTEN) as tracer:
            tracer.await_armed()
            target.send()
            while not complete_through(report := tracer.next_report(), "[uprobes]"):
                pass
            tracer.stop()
    for site in complete_through(report, "[uprobes]"):
        assert "on_timer(int)" in site.functions
        assert "main" in site.functions or "start_thread" in site.functions
    # Broken stacks were interrupted before that, in the first instructions of the trampoline.
    for site in ended(report, "broken", "guessed"):
        # While libgcc puts the frame in place that it goes on in, no unwind information is right.
        if not {"_Unwind_RaiseException", "_Unwind_Resume"} & {*site.functions}:
            assert site.frames[-1].module == "[uprobes]", site.functions


def complete_through(report: Report, module: str) -> tuple[Site, ...]:
    return tuple(
        site
        for site in ended(report, "complete")
        if module in [frame.module for frame in site.frames]
    )


def test_generated_code_is_named_by_its_perf_map(compiled: Compiler) -> None:
    def drive(target: Target) -> tuple[int, ...]:
        target.do("announce")
        perf_map.append(Path(f"/tmp/perf-{target.pid}.map"))
        target.do("generated kept 1001")
        return target.do("generated lost 1002")

    perf_map: list[Path] = []
    try:
        report = trace_work([compiled("stack_walkers.c")], drive=drive).report
    finally:
        for path in perf_map:
            path.unlink(missing_ok=True)
    (site,) = [site for site in report.sites if site.total.bytes == 1001]
    assert site.functions[:3] == ("scenario_called_back", "generated_code", "scenario_generated")
    assert site.raw["stack_end"] == "guessed"
    (site,) = [site for site in report.sites if site.total.bytes == 1002]
    assert site.functions == ("scenario_called_back", None)  # the map doesn't list that one
    assert site.frames[1].unknown is not None
    assert "does not list it" in site.frames[1].unknown


def test_code_named_after_a_first_report_has_its_name_in_the_next(compiled: Compiler) -> None:
    with Target([compiled("stack_walkers.c")]) as target:
        perf_map = Path(f"/tmp/perf-{target.pid}.map")
        target.await_ready()
        try:
            with Tracer("-p", str(target.pid), *ONE_REPORT, OFTEN) as tracer:
                tracer.await_armed()
                target.do("generated kept 1003")
                (site,) = next_look(tracer).sites
                assert site.functions[:2] == ("scenario_called_back", None)
                target.do("announce")
                for _ in range(20):
                    (site,) = tracer.next_report().sites
                    if site.functions[1] is not None:
                        break
                assert site.functions[:2] == ("scenario_called_back", "generated_code")
                tracer.stop()
        finally:
            perf_map.unlink(missing_ok=True)
