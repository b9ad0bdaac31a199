"""Where in a function a probe is cheapest.

An x86 uprobe on an instruction that the kernel emulates costs one trap. Any other instruction is
executed out of line, under single-step, which costs a second trap: three to five times as much
under virtualisation, about twice as much on bare metal. glibc's free, for example, begins with
`test %rdi,%rdi`, which is not emulated, followed by `je`, which is.

So the probe is at the first emulated instruction of the straight line that the function begins
with, as long as the arguments are still in their registers and the return address is still on top
of the stack there, and nothing else in the function jumps to it.

It is never at a nop of several bytes. Linux 6.18 replaces a probed nop of five bytes with a call to
a trampoline ("uprobes/x86: Add support to optimize uprobes"), which pushes 32 bytes onto the
target's stack and overwrites what a leaf function keeps in its red zone. And a child that is forked
meanwhile has that call but no trampoline: it dies of SIGSEGV. Newer kernels do that to nops of ten
bytes, and don't use the red zone ("uprobes/x86: Move optimized uprobe from nop5 to nop10").

Nor is it at a call where processes may have shadow stacks: the kernel, when it emulates the call,
pushes the return address only on the normal stack, and the process dies at the return (until
"x86/uprobes: Keep shadow stack in sync for emulated CALLs").

Sources: arch/x86/kernel/uprobes.c (push_setup_xol_ops, branch_setup_xol_ops, can_optimize), the
System V psABI for x86-64, 3.2.2 and 3.2.3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice

from leaktrace.arch.machines import is_decoded
from leaktrace.arch.x86_64 import ARGUMENTS, RSP, may_have_shadow_stacks
from leaktrace.arch.x86_64_code import Instruction, decode, may_carry_probe
from leaktrace.elf.object import ElfObject
from leaktrace.elf.symbols import FunctionSymbol
from leaktrace.errors import ObjectFileError

MAX_PROLOGUE = 16  # instructions that are examined
_MAX_FUNCTION_BYTES = 16_384  # searched for jumps back
_UNKNOWN_SIZE_BYTES = 512  # the same, if the symbol has no size


@dataclass(frozen=True)
class Placement:
    """The instruction that carries a probe; `offset` bytes from the function's entry."""

    offset: int
    instruction: str  # "push r12"
    emulated: bool  # one trap per hit, not two
    reason: str = ""  # why it isn't on a cheaper instruction
    refused: bool = False  # no instruction may carry a probe: don't attach


def place(code: bytes, argument_count: int, whole: bytes | None = None) -> Placement:
    """Choose the instruction of an x86-64 function.

    `code` begins at its entry; `whole` is the part of the function that is searched for jumps back
    (None: `code`). The first `argument_count` integer arguments must be unchanged.
    """
    whole = code if whole is None else whole
    instructions = list(islice(decode(code, 0), MAX_PROLOGUE))
    if not instructions:
        return Placement(0, "?", emulated=False, reason="its first instruction can't be decoded")
    shadow_stacks = may_have_shadow_stacks()
    usable = [one for one in instructions if may_carry_probe(one, shadow_stacks=shadow_stacks)]
    first = next(iter(usable), None)
    if first is None or any(not one.is_idle for one in instructions if one.address < first.address):
        return _refuse(
            instructions[0], "its first instructions include nothing that may carry a probe"
        )
    if first.address > 0 and _jumped_to(whole, first.address):
        return _refuse(
            instructions[0], "the function jumps back to the instruction after its first nop"
        )
    entry = Placement(first.address, first.text, first.is_emulated)
    if entry.emulated:
        return entry

    def stay(reason: str) -> Placement:
        return Placement(entry.offset, entry.instruction, emulated=False, reason=reason)

    precious = {RSP, *ARGUMENTS[:argument_count]}
    for one in instructions:
        if one.is_emulated and one in usable:
            if _jumped_to(whole, one.address):
                return stay("the function jumps back to its first instructions")
            return Placement(one.address, one.text, emulated=True)
        if one.ends_block or one.mnemonic in ("int", "syscall", "iretq"):
            return stay("it branches before an emulated instruction")
        if precious & one.written:
            return stay("an argument or the stack pointer changes before an emulated instruction")
    return stay("no emulated instruction is near its entry")


def place_in(elf: ElfObject, function: FunctionSymbol, argument_count: int) -> Placement:
    """The same for a function of an object. Where instructions aren't decoded (other machines than
    x86-64), the entry."""
    if not is_decoded(elf.machine):
        return Placement(
            0, "?", emulated=False, reason="instructions of its machine aren't decoded"
        )
    size = min(function.size or _UNKNOWN_SIZE_BYTES, _MAX_FUNCTION_BYTES)
    try:
        whole = elf.read_vaddr(function.vaddr, size)
    except ObjectFileError:
        return Placement(0, "?", emulated=False, reason="its code can't be read")
    placement = place(whole, argument_count)
    chosen = next(decode(whole[placement.offset :], function.vaddr + placement.offset), None)
    return placement if chosen is None else replace(placement, instruction=chosen.text)


def _refuse(first: Instruction, reason: str) -> Placement:
    return Placement(0, first.text, emulated=False, reason=reason, refused=True)


def _jumped_to(whole: bytes, candidate: int) -> bool:
    """Whether a direct jump of the function leads to an address after its entry, up to the
    candidate: the probe would then also be hit within a call. Code that can't be decoded is data or
    padding and ends the search."""
    return any(
        one.is_jump and one.target is not None and 0 < one.target <= candidate
        for one in decode(whole, 0)
    )
