"""x86-64 instructions as the analysis of a function sees them, decoded by capstone.

Registers are numbers, in the order in which instructions encode them: 0 rax, 1 rcx, 2 rdx, 3 rbx,
4 rsp, 5 rbp, 6 rsi, 7 rdi, 8 to 15 r8 to r15. Part of a register stands for all of it.
Sources: Intel SDM, volume 2; System V psABI for x86-64, 3.2.3 (arguments, registers that a call
preserves).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import capstone
from capstone import x86 as cs_x86

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
R11 = 11
ARGUMENTS = (RDI, RSI, RDX, RCX)
PRESERVED = frozenset({RBX, RSP, RBP, 12, 13, 14, 15})
CLOBBERED = frozenset(range(16)) - PRESERVED
SYSCALL_CLOBBERED = frozenset({RAX, RCX, R11})

_LEGACY = (
    ("rax", "eax", "ax", "al", "ah"),
    ("rcx", "ecx", "cx", "cl", "ch"),
    ("rdx", "edx", "dx", "dl", "dh"),
    ("rbx", "ebx", "bx", "bl", "bh"),
    ("rsp", "esp", "sp", "spl"),
    ("rbp", "ebp", "bp", "bpl"),
    ("rsi", "esi", "si", "sil"),
    ("rdi", "edi", "di", "dil"),
    *((f"r{n}", f"r{n}d", f"r{n}w", f"r{n}b") for n in range(8, 16)),
)
_NUMBERS = {name: number for number, names in enumerate(_LEGACY) for name in names}


# Registers that capstone doesn't say are written.
_WRITTEN_UNLISTED = {"cmpxchg": frozenset({RAX})}
# Instructions whose first operand may be memory that they don't write.
_READERS = frozenset(
    [
        "cmp",
        "test",
        "push",
        "jmp",
        "call",
        "mul",
        "imul",
        "div",
        "idiv",
        "bt",
        "nop",
        "fld",
        "fild",
        "ldmxcsr",
        "lea",
    ]
)


@dataclass(frozen=True)
class Operand:
    """A register, an immediate, or memory at base + index * scale + displacement."""

    register: int | None = None
    immediate: int | None = None
    base: int | None = None
    displacement: int = 0
    index: int | None = None
    has_index: bool = False
    is_memory: bool = False
    absolute: int | None = None  # where memory relative to rip is
    size_bytes: int = 0
    is_written: bool = False


@dataclass(frozen=True)
class Instruction:
    """One instruction. `target` is where a direct jump or call leads."""

    address: int
    code: bytes
    mnemonic: str
    text: str
    operands: tuple[Operand, ...]
    written: frozenset[int]  # registers, also those that it writes without naming them
    is_call: bool
    is_return: bool
    is_jump: bool  # conditional ones too
    target: int | None

    @property
    def end(self) -> int:
        return self.address + len(self.code)

    @property
    def is_conditional(self) -> bool:
        return self.is_jump and self.mnemonic != "jmp"

    @property
    def condition(self) -> int | None:
        """The condition code of a jcc, as in its opcode; None for other jumps."""
        if not self.is_conditional:
            return None
        opcode = self.code[-5] if len(self.code) >= 6 else self.code[-2]
        return opcode & 0x0F if opcode >> 4 in (0x7, 0x8) else None

    @property
    def is_idle(self) -> bool:
        """Whether it does nothing: a nop, or the mark that indirect calls may lead here."""
        return self.is_long_nop or self.mnemonic in ("nop", "endbr64")

    @property
    def is_long_nop(self) -> bool:
        """Whether it is a nop of several bytes, in whatever way it is encoded: what kernels take
        for one is in insn_is_nop (arch/x86/lib/insn-eval.c)."""
        if self.mnemonic == "nop":
            return len(self.code) > 1
        if self.mnemonic not in ("lea", "mov") or len(self.code) < 5:
            return False
        to, source = self.operands
        if source.register is not None:
            return source.register == to.register
        return self.mnemonic == "lea" and (
            source.base == to.register and source.displacement == 0 and not source.has_index
        )

    @property
    def is_trap(self) -> bool:
        """Whether control never goes on from here: what compilers put where none should come."""
        return self.mnemonic in ("ud2", "hlt", "int3")

    @property
    def ends_block(self) -> bool:
        """Whether control may go on elsewhere than at `end`, or not at all."""
        return self.is_jump or self.is_return or self.is_call or self.is_trap

    @property
    def is_emulated(self) -> bool:
        """Whether a probe on it costs one trap. See `is_emulated`."""
        return is_emulated(self.code)


def is_emulated(code: bytes) -> bool:
    """What the kernel has emulated since Linux 4.16 (push: e7ed9d9bd037, "uprobes/x86: Emulate push
    insns for uprobe on x86"; near jumps and calls, nop: 8ad8e9d3fd64 and 7ba6db2d6886, 3.16).
    Newer kernels emulate more; what is here holds for them as well."""
    if code[0] == 0x41 and len(code) == 2:  # REX.B: push r8…r15
        return 0x50 <= code[1] <= 0x57
    one, two = code[0], code[:2]
    return (
        (0x50 <= one <= 0x57 and len(code) == 1)  # push
        or code == b"\x90"  # nop
        or one in (0xE8, 0xE9, 0xEB)  # call, jmp
        or (0x70 <= one <= 0x7F and len(code) == 2)  # jcc, short
        or (two[0] == 0x0F and len(two) == 2 and 0x80 <= two[1] <= 0x8F)  # jcc, near
    )


@cache
def _disassembler() -> Any:  # noqa: ANN401 (capstone has no types)
    machine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    machine.detail = True
    return machine


def decode(code: bytes, address: int) -> Iterator[Instruction]:
    """The instructions of a straight piece of code, up to the first that can't be decoded."""
    for one in _disassembler().disasm(code, address):
        yield _instruction(one)


def _instruction(one: Any) -> Instruction:  # noqa: ANN401
    groups = frozenset(one.groups)
    is_call = capstone.CS_GRP_CALL in groups
    # loop and its kind are in the second group alone, which calls are in, too.
    is_branch = capstone.CS_GRP_BRANCH_RELATIVE in groups
    is_jump = capstone.CS_GRP_JUMP in groups or (is_branch and not is_call)
    mnemonic = one.mnemonic.split()[-1]  # without lock, rep, notrack, bnd
    operands = tuple(
        _operand(one, operand, mnemonic, place) for place, operand in enumerate(one.operands)
    )
    target = None
    if (is_call or is_jump) and operands and operands[0].immediate is not None:
        target = operands[0].immediate & (1 << 64) - 1
    _, written = one.regs_access()
    names = [one.reg_name(register) for register in written]
    return Instruction(
        address=one.address,
        code=bytes(one.bytes),
        mnemonic=mnemonic,
        text=f"{one.mnemonic} {one.op_str}".strip(),
        operands=operands,
        written=frozenset(_NUMBERS[name] for name in names if name in _NUMBERS)
        | frozenset(o.register for o in operands if o.is_written and o.register is not None)
        | _WRITTEN_UNLISTED.get(mnemonic, frozenset()),
        is_call=is_call,
        is_return=capstone.CS_GRP_RET in groups,
        is_jump=is_jump,
        target=target,
    )


def _operand(one: Any, operand: Any, mnemonic: str, place: int) -> Operand:  # noqa: ANN401
    is_written = bool(operand.access & capstone.CS_AC_WRITE)
    if operand.type == cs_x86.X86_OP_REG:
        number = _NUMBERS.get(one.reg_name(operand.reg))
        return Operand(register=number, size_bytes=operand.size, is_written=is_written)
    if operand.type == cs_x86.X86_OP_IMM:
        return Operand(immediate=operand.imm, size_bytes=operand.size)
    # capstone doesn't tell of all stores: what comes first is written, but for what only reads.
    only_reads = mnemonic in _READERS or mnemonic.startswith("prefetch")
    is_written = is_written or (place == 0 and not only_reads)
    memory = operand.mem
    displacement = int(memory.disp)
    # fs and gs: never the stack. The others mean nothing in 64-bit mode.
    in_segment = memory.segment in (cs_x86.X86_REG_FS, cs_x86.X86_REG_GS)
    absolute = None
    if memory.base == cs_x86.X86_REG_RIP and not in_segment:
        absolute = one.address + one.size + displacement
    base = None
    if memory.base and absolute is None and not in_segment:
        base = _NUMBERS.get(one.reg_name(memory.base))
    return Operand(
        base=base,
        displacement=displacement,
        index=_NUMBERS.get(one.reg_name(memory.index)) if memory.index else None,
        has_index=memory.index not in (0, cs_x86.X86_REG_RIZ),  # riz is none
        is_memory=True,
        absolute=absolute,
        size_bytes=operand.size,
        is_written=is_written,
    )
