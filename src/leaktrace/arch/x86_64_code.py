"""x86-64 by its instructions: a decoder on capstone, what a probe on one costs, known sequences.

Registers are numbers as in x86_64.py; part of a register counts as all of it.
Sources: Intel SDM, volume 2; arch/x86/kernel/uprobes.c (push_setup_xol_ops, branch_setup_xol_ops,
can_optimize, is_prefix_bad).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import capstone
from capstone import x86 as cs_x86

from leaktrace.arch.x86_64 import RAX

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


# Instructions that can't be followed: they jump, or write registers that capstone doesn't list.
UNFOLLOWED = frozenset(
    ["xbegin", "iretq", "sysret", "sysexit", "int", "enter", "xlatb", "rdsspd", "rdsspq"]
)
KEEPS_FLAGS = frozenset({"mov", "lea", "movabs", "movzx", "movsx", "movsxd", "push", "pop", "nop"})
EXCHANGES = ("xchg", "xadd", "cmpxchg")
# These write more bytes than the size of their operand. By prefix.
WRITE_MUCH = ("stos", "movs", "fxsave", "xsave", "fnsave", "fsave", "fnstenv", "fstenv")
# Prefixes of instructions that the kernel doesn't probe (is_prefix_bad): lock, and segments other
# than fs and gs.
_REFUSED_PREFIXES = frozenset({0xF0, 0x26, 0x2E, 0x36, 0x3E})
_PREFIXES = _REFUSED_PREFIXES | {0x64, 0x65, 0x66, 0x67, 0xF2, 0xF3}
# What the kernel executes out of line in every case. It refuses others (those encoded with VEX or
# EVEX, hlt, in, out), sometimes only when the file is mapped, and then without an error.
_STEPPED = frozenset(
    [
        "adc",
        "add",
        "and",
        "bsf",
        "bsr",
        "bswap",
        "bt",
        "cdq",
        "cdqe",
        "cmp",
        "cqo",
        "dec",
        "div",
        "endbr64",
        "idiv",
        "imul",
        "inc",
        "lea",
        "leave",
        "mov",
        "movabs",
        "movsx",
        "movsxd",
        "movzx",
        "mul",
        "neg",
        "not",
        "or",
        "pop",
        "push",
        "ret",
        "rol",
        "ror",
        "sar",
        "sbb",
        "shl",
        "shr",
        "sub",
        "test",
        "xchg",
        "xor",
    ]
)

# Registers that are written although capstone doesn't list them.
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
    """One instruction. `target` is the destination of a direct jump or call."""

    address: int
    code: bytes
    mnemonic: str
    text: str
    operands: tuple[Operand, ...]
    written: frozenset[int]  # registers, including implicit ones
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
        """Whether it does nothing: a nop, or endbr64, the mark of a target of indirect calls."""
        return self.is_long_nop or self.mnemonic in ("nop", "endbr64")

    @property
    def is_long_nop(self) -> bool:
        """Whether it is a nop of several bytes, in any encoding: what kernels take for one is in
        insn_is_nop (arch/x86/lib/insn-eval.c)."""
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
        """Whether control never goes on from here: compilers mark unreachable code with it."""
        return self.mnemonic in ("ud2", "hlt", "int3")

    @property
    def ends_block(self) -> bool:
        """Whether control may go on elsewhere than at `end`, or nowhere."""
        return self.is_jump or self.is_return or self.is_call or self.is_trap

    @property
    def is_emulated(self) -> bool:
        """Whether a probe on it costs one trap. See `is_emulated`."""
        return is_emulated(self.code)


def is_emulated(code: bytes) -> bool:
    """Whether every kernel since Linux 4.16 emulates this instruction when it carries a probe
    (push: e7ed9d9bd037, "uprobes/x86: Emulate push insns for uprobe on x86"; near jumps and calls,
    nop: 8ad8e9d3fd64 and 7ba6db2d6886, 3.16). Newer kernels also emulate others."""
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


def may_carry_probe(one: Instruction, *, shadow_stacks: bool) -> bool:
    """Whether an instruction can be probed without harm (docs/safety.md). `shadow_stacks`: the
    process may have shadow stacks."""
    # Later kernels write a jump over eight bytes in the place of a probed nop of ten bytes.
    if one.is_long_nop or one.code == b"\xeb\x08":
        return False
    if one.is_call and shadow_stacks:
        return False
    is_stepped = one.mnemonic in _STEPPED or one.mnemonic.startswith(("cmov", "set"))
    if not (one.is_emulated or is_stepped or one.is_return or one.is_jump or one.is_call):
        return False
    for byte in one.code:
        if byte in _REFUSED_PREFIXES:
            return False
        if byte not in _PREFIXES:
            break
    return True


def register_named(name: str) -> int | None:
    """The number of a register, None for another name."""
    return _NUMBERS.get(name)


@cache
def _disassembler() -> Any:  # noqa: ANN401 (capstone has no types)
    machine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    machine.detail = True
    return machine


def decode(code: bytes, address: int) -> Iterator[Instruction]:
    """The instructions of a straight piece of code, up to the first that can't be decoded."""
    for one in _disassembler().disasm(code, address):
        yield _instruction(one)


def decode_from(code: bytes, address: int, first: int) -> Iterator[Instruction]:
    """The instructions of a straight piece of code from the one at `first` on: nothing if there is
    no instruction at `first`, or if one before it can't be decoded."""
    for start, *_ in _disassembler().disasm_lite(code, address):  # a tenth of the time of disasm
        if start == first:
            yield from decode(code[first - address :], first)
        if start >= first:
            return


def _instruction(one: Any) -> Instruction:  # noqa: ANN401
    groups = frozenset(one.groups)
    is_call = capstone.CS_GRP_CALL in groups
    # loop and similar are only in the second group, which also contains calls.
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
    # capstone doesn't report all stores: the first operand is written, except by _READERS.
    only_reads = mnemonic in _READERS or mnemonic.startswith("prefetch")
    is_written = is_written or (place == 0 and not only_reads)
    memory = operand.mem
    displacement = int(memory.disp)
    # fs and gs are never the stack. The other segments have no effect in 64-bit mode.
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


# -- sequences of instructions that are searched for ----------------------------------------

CALL_OR_JUMP = re.compile(rb"[\xe8\xe9]", re.DOTALL)  # with a distance of four bytes
# What glibc's __start_context begins with: mov %rbx, %rsp. No function that is called does.
START_CONTEXT = bytes.fromhex("4889dc")
# call *register, *(register), *distance(register), as ModRM encodes them
_CALL = (
    rb"\xff(?:[\xd0-\xd7\x10-\x13\x16\x17]|[\x50-\x53\x55-\x57\x14]."
    rb"|[\x15\x90-\x93\x95-\x97].{4}|\x54..)"
)
# mov %eax, %edi; mov %rax, %rdi; movslq %eax, %rdi; cltq and mov
_HANDED_ON = rb"(?:\x89\xc7|\x48\x89\xc7|\x48\x63\xf8|\x48\x98\x48\x89\xc7)"
# mov $60, %eax (exit) or mov $231, %eax (exit_group), in every form that compilers write
_NUMBER = (
    rb"(?:\x31\xc0\xb0[\x3c\xe7]|\xb8[\x3c\xe7]\0\0\0|\x6a\x3c\x58|\x48\xc7\xc0[\x3c\xe7]\0\0\0)"
)
# A call by pointer whose result is an exit status. Group 1 is the call. Group 2 is the distance to
# the function that gets the result, absent where the system call follows.
EXIT_STATUS = re.compile(
    rb"(?=(%s)%s(?:\xe8(.{4})|%s\x0f\x05))" % (_CALL, _HANDED_ON, _NUMBER), re.DOTALL
)
