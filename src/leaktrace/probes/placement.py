"""Where in a function its probe is cheapest.

An x86 uprobe on an instruction that the kernel emulates costs one trap. Any other instruction is
executed out of line, under single-step, which costs a second trap: three to five times the price
under virtualisation, about twice on bare metal. glibc's free, for example, begins with
`test %rdi,%rdi`, which is not emulated, and goes on with `je`, which is.

So the probe goes on the first emulated instruction of the straight line that the function begins
with, as long as the arguments are still in their registers and the return address is still on top
of the stack there, and nothing else in the function jumps to it.

Never on a nop of several bytes. Linux 6.18 replaces a probed one of five bytes with a call to a
trampoline ("uprobes/x86: Add support to optimize uprobes"), which pushes 32 bytes onto the target's
stack: over what a leaf function keeps in its red zone. And a child forked meanwhile has that call,
but no trampoline: it dies of SIGSEGV. Newer kernels do that to nops of ten bytes, and spare the red
zone ("uprobes/x86: Move optimized uprobe from nop5 to nop10").

Sources: arch/x86/kernel/uprobes.c (push_setup_xol_ops, branch_setup_xol_ops, can_optimize), the
System V psABI for x86-64, 3.2.2 and 3.2.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import capstone
from capstone import x86 as cs_x86

from leaktrace.elf import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.probes.code.x86 import is_emulated
from leaktrace.symbols.table import FunctionSymbol

_MAX_PROLOGUE = 16  # instructions looked at
_MAX_FUNCTION_BYTES = 16_384  # searched for jumps back
_UNKNOWN_SIZE_BYTES = 512  # the same, where the symbol has no size

_ARGUMENTS = (
    {"rdi", "edi", "di", "dil"},
    {"rsi", "esi", "si", "sil"},
    {"rdx", "edx", "dx", "dl", "dh"},
    {"rcx", "ecx", "cx", "cl", "ch"},
)
_STACK_POINTER = {"rsp", "esp", "sp", "spl"}


@dataclass(frozen=True)
class Placement:
    """The instruction that carries a probe; `offset` bytes from the function's entry."""

    offset: int
    instruction: str  # "push r12"
    emulated: bool  # one trap a hit, not two
    reason: str = ""  # why it isn't on a cheaper instruction
    refused: bool = False  # no instruction may carry it: don't attach


def place(code: bytes, argument_count: int, whole: bytes | None = None) -> Placement:
    """Choose the instruction of an x86-64 function.

    `code` begins at its entry; `whole` is as much of the function as is searched for jumps back,
    `code` itself if None. The first `argument_count` integer arguments must be intact.
    """
    whole = code if whole is None else whole
    instructions = list(_disassembler().disasm(code, 0, _MAX_PROLOGUE))
    if not instructions:
        return Placement(0, "?", emulated=False, reason="its first instruction can't be decoded")
    first = next((one for one in instructions if not _may_become_a_call(one)), None)
    if first is None:
        return _refuse(instructions[0], "nothing can be decoded behind the nop it begins with")
    if first.address > 0 and _jumped_to(whole, first.address):
        return _refuse(instructions[0], "the function jumps back to behind the nop it begins with")
    entry = Placement(first.address, _text(first), is_emulated(bytes(first.bytes)))
    if entry.emulated:
        return entry

    def stay(reason: str) -> Placement:
        return Placement(entry.offset, entry.instruction, emulated=False, reason=reason)

    precious = set[str]().union(_STACK_POINTER, *_ARGUMENTS[:argument_count])
    for instruction in instructions:
        if is_emulated(bytes(instruction.bytes)):
            if _jumped_to(whole, instruction.address):
                return stay("the function jumps back to the instructions it begins with")
            return Placement(instruction.address, _text(instruction), emulated=True)
        if _ends_straight_line(instruction):
            return stay("it branches before an instruction that is emulated")
        _, written = instruction.regs_access()
        if precious & {instruction.reg_name(register) for register in written}:
            return stay("an argument or the stack pointer is changed before one that is emulated")
    return stay("no emulated instruction is near its entry")


def place_in(elf: ElfObject, function: FunctionSymbol, argument_count: int) -> Placement:
    """The same for a function of an object. On other machines than x86-64 the entry it is."""
    if elf.machine != "EM_X86_64":
        return Placement(0, "?", emulated=False, reason="placement is known for x86-64 only")
    size = min(function.size or _UNKNOWN_SIZE_BYTES, _MAX_FUNCTION_BYTES)
    try:
        whole = elf.read_vaddr(function.vaddr, size)
    except ObjectFileError:
        return Placement(0, "?", emulated=False, reason="its code can't be read")
    return place(whole, argument_count)


@cache
def _disassembler() -> Any:  # noqa: ANN401 (capstone has no types)
    machine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    machine.detail = True
    return machine


def _text(instruction: Any) -> str:  # noqa: ANN401
    return f"{instruction.mnemonic} {instruction.op_str}".strip()


def _refuse(instruction: Any, reason: str) -> Placement:  # noqa: ANN401
    return Placement(0, _text(instruction), emulated=False, reason=reason, refused=True)


def _may_become_a_call(instruction: Any) -> bool:  # noqa: ANN401
    """Whether it is a nop that a kernel may replace with a call when it is probed: five bytes now,
    ten later; so none of several bytes, in whatever way it is encoded. What kernels take for one is
    in insn_is_nop (arch/x86/lib/insn-eval.c)."""
    if instruction.size == 1:
        return False
    if instruction.id == cs_x86.X86_INS_NOP:
        return True
    if instruction.id not in (cs_x86.X86_INS_LEA, cs_x86.X86_INS_MOV) or instruction.size < 5:
        return False
    to, source = instruction.operands
    if source.type == cs_x86.X86_OP_REG:
        return bool(source.reg == to.reg)
    memory = source.mem  # lea rsi, [rsi + riz]
    has_index = memory.index not in (cs_x86.X86_REG_INVALID, cs_x86.X86_REG_RIZ)
    return instruction.id == cs_x86.X86_INS_LEA and (
        memory.base == to.reg and memory.disp == 0 and not has_index
    )


def _ends_straight_line(instruction: Any) -> bool:  # noqa: ANN401
    groups = (
        capstone.CS_GRP_JUMP,
        capstone.CS_GRP_CALL,
        capstone.CS_GRP_RET,
        capstone.CS_GRP_INT,
        capstone.CS_GRP_IRET,
    )
    return any(instruction.group(group) for group in groups)


def _jumped_to(whole: bytes, candidate: int) -> bool:
    """Whether a direct jump of the function leads behind its entry, as far as the candidate: the
    probe would then also be hit within a call. Code that can't be decoded ends the search; it is
    data or padding."""
    for instruction in _disassembler().disasm(whole, 0):
        if instruction.group(capstone.CS_GRP_JUMP) and instruction.operands:
            operand = instruction.operands[0]
            if operand.type == cs_x86.X86_OP_IMM and 0 < operand.imm <= candidate:
                return True
    return False
