"""A debugger attached to the process at the same time: leaktrace's notes about it, and its
repairs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.changed_text import changed_bytes
from harness.compiling import Compiler
from harness.debugger import Debugger
from harness.reports import Total
from harness.target import Target
from harness.text import address_of, write_text
from harness.tracer import NEVER, ONE_REPORT, Tracer
from harness.wording import names, the_note

from leaktrace.elf.object import ElfObject

pytestmark = [
    pytest.mark.usefixtures("require_bpf"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="int3 is x86-64's"),
]


@pytest.fixture
def program(compiled: Compiler) -> Path:
    """Static: its malloc is in a file that no other process has mapped."""
    return compiled("commands.c", "-static")


def test_probes_that_were_overwritten_are_restored(program: Path) -> None:
    """As a debugger does when it removes a breakpoint that was there before the probe."""
    with Target([program]) as target:
        target.await_ready()
        with Tracer("-p", str(target.pid), "-f", "json", "-o", "0", "1") as tracer:
            tracer.await_armed()
            tracer.next_report()
            probes = changed_bytes(target.pid)
            assert probes
            for probe in probes:
                write_text(target.pid, program, probe.offset, bytes([probe.file]))
            assert changed_bytes(target.pid) == []
            # Earlier reports may still arrive.
            report = next(r for r in iter(tracer.next_report, None) if r.raw["target"]["notes"])
            the_note(report, "probes", "restored")
            assert changed_bytes(target.pid) == probes
            target.do("malloc 10 50")
            last = tracer.stop().reports[-1]
        assert last.outstanding == Total(500, 10)
        assert changed_bytes(target.pid) == []
        assert target.end() == 0


def test_a_debugger_is_named_as_long_as_it_is_there(
    program: Path, require_tool: Callable[[str], str]
) -> None:
    with Target([program]) as target:
        target.await_ready()
        with ElfObject.open(program) as elf:
            place = elf.vaddr_to_offset(elf.functions(["getenv"])["getenv"].vaddr)
        assert place is not None
        with (
            Debugger(require_tool("gdb"), target.pid) as debugger,
            Tracer("-p", str(target.pid), *ONE_REPORT, NEVER) as tracer,
        ):
            debugger.run_with_breakpoint(address_of(target.pid, program, place))
            tracer.await_armed()
            target.do("malloc 10 50")
            outcome = tracer.stop()
            debugger.leave()
        report = outcome.reports[-1]
        assert report.outstanding == Total(500, 10)
        the_note(report, debugger.pid, "gdb")
        assert names(outcome.stderr, "leaktrace -p")
        assert target.end() == 0
