"""x86-64 by its ABI: registers, calls, frames, relocations; and the few instructions that code is
searched for. The decoder is in x86_64_code.py.

Registers are numbers, in the order in which instructions encode them: 0 rax, 1 rcx, 2 rdx, 3 rbx,
4 rsp, 5 rbp, 6 rsi, 7 rdi, 8 to 15 r8 to r15.
Sources: System V psABI for x86-64, 3.2 (calls and stack frames), 3.6.2 (DWARF register numbers),
4.4 (relocations); Intel SDM, volume 2 (syscall).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

# -- calls ----------------------------------------------------------------------------------

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
R11 = 11
ARGUMENTS = (RDI, RSI, RDX, RCX)
PRESERVED = frozenset({RBX, RSP, RBP, 12, 13, 14, 15})  # by a call
CLOBBERED = frozenset(range(16)) - PRESERVED
SYSCALL_CLOBBERED = frozenset({RAX, RCX, R11})
RED_ZONE_BYTES = 128  # below rsp, which signal handlers leave alone (3.2.2)
RETURN_ADDRESS_OFFSET = -8  # from the canonical frame address, in bytes


@cache
def may_have_shadow_stacks() -> bool:
    """Whether processes of this machine can have shadow stacks (CET, Linux 6.6)."""
    try:
        return "user_shstk" in Path("/proc/cpuinfo").read_text(errors="replace").split()
    except OSError:
        return True


# -- instructions ---------------------------------------------------------------------------

INT3 = 0xCC  # a breakpoint: of a probe, of another tracer or of a debugger
MAX_INSTRUCTION_BYTES = 15
CALL = b"\xe8"  # and a distance of four bytes
CALL_THROUGH, JUMP_THROUGH = b"\xff\x15", b"\xff\x25"  # a pointer at a distance of four bytes
THROUGH_BYTES = 6  # length of these two
ENDBR64, BND = b"\xf3\x0f\x1e\xfa", b"\xf2"  # may come first in a stub

# -- memory ---------------------------------------------------------------------------------

PAGE_BYTES = 4096
USER_SPACE_END = 1 << 47  # with four-level page tables
# Code and what it refers to lie within 2 GiB (psABI 3.5.1, small and medium code model).
MAX_OBJECT_BYTES = 1 << 31

# -- unwind information ---------------------------------------------------------------------

DWARF_RBP = 6
DWARF_RSP = 7
DW_OP_BREG_RBP = 0x76
DW_OP_BREG_RSP = 0x77

# A lazy PLT entry pushes its relocation index and jumps to the resolver, without its own FDE:
# binutils and lld describe the whole section by one expression, CFA = rsp + 8 + (((rip & 15) >= N)
# << 3), as an entry has 16 bytes: DW_OP_breg7 8, breg16 0, lit15, and, litN, ge, lit3, shl, plus.
PLT_EXPRESSION_HEAD = bytes.fromhex("7708 8000 3f 1a")
PLT_EXPRESSION_TAIL = bytes.fromhex("2a 33 24 22")

# The kernel's struct rt_sigframe as a handler's caller sees it: rsp points at a ucontext_t, whose
# uc_mcontext.gregs hold the interrupted registers (arch/x86/include/uapi/asm/sigcontext.h,
# struct sigcontext_64 at +40). Offsets from rsp in bytes.
SIGNAL_RBP_OFFSET = 120
SIGNAL_RSP_OFFSET = 160
SIGNAL_RIP_OFFSET = 168

# What the kernel saves of a thread when it enters the kernel (arch/x86/include/asm/ptrace.h, struct
# pt_regs), in words: r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi, the number of a
# system call, rip cs eflags rsp ss. A system call itself puts rip into rcx and eflags into r11.
SAVED_GENERAL = slice(0, 15)
SAVED_RBP = 4
SAVED_RBX = 5
SAVED_IP = 16
SAVED_SP = 19

# -- relocations ----------------------------------------------------------------------------

R_GLOB_DAT, R_JUMP_SLOT, R_IRELATIVE = 6, 7, 37
