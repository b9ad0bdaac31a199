"""Probes don't change what a function keeps below its stack pointer.

Linux 6.18 replaces a probed nop of five bytes with a call, which writes there. To show that these
tests can fail, they also cause it on purpose: see leaktrace.process.probes.placement.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.probes import offset_of
from harness.target import Target
from harness.text import probed, text_at

from leaktrace.bpf.links import UprobeLinks
from leaktrace.elf.object import ElfObject
from leaktrace.process.probes.placement import place_in

pytestmark = [
    pytest.mark.usefixtures("require_bpf"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the instructions are x86-64's"),
]

CALLS = 10_000
NOP = bytes.fromhex("0f1f440000")
CALL_OPCODE = 0xE8


def placed(program: Path, name: str) -> int:
    """The offset in the file of the instruction that we would probe."""
    with ElfObject.open(program) as elf:
        function = elf.functions([name])[name]
        entry = elf.vaddr_to_offset(function.vaddr)
        assert entry is not None
        return entry + place_in(elf, function, 1).offset


def test_our_probe_leaves_it_alone(compiled: Compiler, kind: UprobeLinks) -> None:
    program = compiled("red_zone.c")
    offset = placed(program, "red_zone_entry")
    assert offset == offset_of(program, "red_zone_entry") + len(NOP)
    with Target([program]) as target:
        target.await_ready()
        original = text_at(target.pid, program, offset, 8)
        with probed(kind, program, [offset], target.pid):
            assert target.do(f"call red_zone_entry {CALLS}") == (0, CALLS)
        assert text_at(target.pid, program, offset, 8) == original
        assert target.end() == 0


def test_a_child_forked_meanwhile_lives(compiled: Compiler, kind: UprobeLinks) -> None:
    """A call that replaced the nop would have no destination in the child."""
    program = compiled("red_zone.c")
    with Target([program]) as target:
        target.await_ready()
        with probed(kind, program, [placed(program, "red_zone_entry")], target.pid):
            target.do(f"call red_zone_entry {CALLS}")
            assert target.do(f"fork red_zone_entry {CALLS}") == (0, CALLS)
        assert target.end() == 0


def replaces_nops(compiled: Compiler) -> bool:
    """Whether this kernel puts a call where the nop was, once the probe has been hit."""
    program = compiled("red_zone.c")
    nop = offset_of(program, "red_zone_middle_nop")
    with Target([program]) as target:
        target.await_ready()
        assert text_at(target.pid, program, nop, len(NOP)) == NOP
        with probed(UprobeLinks.EVENTS, program, [nop], target.pid):
            target.do("call red_zone_middle 2")
            return text_at(target.pid, program, nop, 1)[0] == CALL_OPCODE


@pytest.mark.may_skip("kernels before 6.18 don't, and later ones will not")
@pytest.mark.parametrize("where", ["red_zone_middle_nop", "red_zone_entry"])
def test_a_probe_on_the_nop_would_write_there(
    compiled: Compiler, kind: UprobeLinks, where: str
) -> None:
    """This shows that the tests above can fail: the kernel writes the return address and three
    registers, at each call but the first, which still hits a breakpoint. A child has the call, and
    nothing is mapped at its destination."""
    if not replaces_nops(compiled):
        pytest.skip("this kernel doesn't replace nops")
    program = compiled("red_zone.c")
    with Target([program]) as target:
        target.await_ready()
        with probed(kind, program, [offset_of(program, where)], target.pid):
            function = where.removesuffix("_nop")
            assert target.do(f"call {function} {CALLS}") == (4 * (CALLS - 1), CALLS)
            killed, _ = target.do(f"fork {function} 1")
            assert killed > 1
        # What remains after the probe is removed does no harm.
        assert target.do(f"call {function} {CALLS}") == (0, CALLS)
        assert target.end() == 0
