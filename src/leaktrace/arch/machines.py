"""What differs between processor architectures, and what has to be added for another one.

To add an architecture (the order matters: each step works without those below it):

1. `bpf/include/uapi/linux/ptrace.h`: its `struct pt_regs`, so that the programs compile.
   `RETURN_SP_DELTA` in `bpf/shared/config.h`: whether a call pushes the return address.
2. An `Architecture` in this file, and its numbers in `syscall_numbers.py`. Both modes work then: C
   functions are followed by return probes, stacks are found by frame pointers, kernel mode is
   complete. C++ operators are left out, because an exception must not pass a return probe.
   `KERNEL_INTERRUPTS` and the constants next to it: the functions where kernel stacks end, if their
   names are new.
3. A module like `x86_64.py` (registers, unwind information) and `has_unwind_tables`: stacks
   without frame pointers. `unwind/cfi.py` and `unwind/rows.py` have a rule for the two registers
   that compilers use for the frame; `unwind/ends.py` finds where stacks end; `step` in
   `bpf/process/step.bpf.c` goes from one frame to the next.
4. A module like `x86_64_code.py` (an instruction decoder on capstone) and `has_decoder`: probes at
   the cheapest instruction, verification of the code in memory, calls followed by points, so also
   C++ operators. What single instructions do to registers and the stack is in
   `process/probes/code/effects.py`, `forward.py` and `backward.py`; `process/probes/encode.py`
   and `bpf/process/point.bpf.c` know registers by number; `IS_X86_64` in
   `bpf/shared/config.h` enables points.
5. Where a thread's registers are in the kernel's `struct pt_regs`, like `SAVED_SP` in `x86_64.py`,
   and where its thread pointer is; `bpf/registers/`, `process/registers.py`, and
   `has_saved_registers`.
6. A guest for `tests/vm`, and what works on it in README.md ("Requirements") and docs/safety.md.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """What differs on one architecture. Only the defaults may be left out."""

    name: str  # `machine` of uname(2)
    elf: str  # e_machine, as pyelftools names it
    # What the kernel writes over a probed instruction (arch_uprobe, UPROBE_SWBP_INSN).
    breakpoint: bytes
    # What a signal handler returns to: rt_sigreturn(2) in libc or the vDSO. libgcc also knows it by
    # its instructions (MD_FALLBACK_FRAME_STATE_FOR, libgcc/config/{i386,aarch64}/linux-unwind.h).
    signal_trampoline: bytes
    # Where the kernel maps the page that pending return probes redirect to when the first one is
    # hit, unless the place is taken: at the end of the address space (xol_add_vma). 0: unknown.
    return_trampoline: int = 0
    has_uretprobe_call: bool = False  # return probes may make a system call, uretprobe(2)
    has_unwind_tables: bool = False  # unwind/ and the BPF walker support it
    has_decoder: bool = False  # its instructions are understood
    has_saved_registers: bool = False  # process/registers.py knows where the kernel saves them


_X86_64 = Architecture(
    name="x86_64",
    elf="EM_X86_64",
    breakpoint=b"\xcc",  # int3
    signal_trampoline=bytes.fromhex("48c7c00f000000 0f05"),  # mov $15, %rax; syscall
    return_trampoline=(1 << 47) - 2 * 4096,
    has_uretprobe_call=True,
    has_unwind_tables=True,
    has_decoder=True,
    has_saved_registers=True,
)
_AARCH64 = Architecture(
    name="aarch64",
    elf="EM_AARCH64",
    breakpoint=bytes.fromhex("a00020d4"),  # brk #5 (UPROBES_BRK_IMM)
    signal_trampoline=bytes.fromhex("681180d2 010000d4"),  # mov x8, 139; svc 0
)
_MACHINES = (_X86_64, _AARCH64)
MACHINES = {machine.name: machine for machine in _MACHINES}  # by `machine` of uname(2)
OF_ELF = {machine.elf: machine for machine in _MACHINES}  # by e_machine

# Where kernel stacks end: functions that are entered from outside, of all architectures together.
# If a function has several names, the first one that the kernel has is used.
KERNEL_SOFTIRQ = ("handle_softirqs", "__do_softirq")
KERNEL_INTERRUPTS = r"asm_(?:common_interrupt|sysvec_\w+)|el1h?_64_irq|el1_irq"  # x86, arm64
KERNEL_ENTRY_START, KERNEL_ENTRY_END = "__entry_text_start", "__entry_text_end"  # x86, arm64
KERNEL_FORK = ("ret_from_fork_asm", "ret_from_fork")


def this_machine() -> Architecture | None:
    """The architecture that runs this code, None for one that isn't listed."""
    return MACHINES.get(os.uname().machine)


def is_decoded(elf_machine: str) -> bool:
    """Whether the instructions of objects with this e_machine are understood."""
    machine = OF_ELF.get(elf_machine)
    return machine is not None and machine.has_decoder


def is_unwound_by_tables(elf_machine: str) -> bool:
    """Whether objects with this e_machine can have an unwind table."""
    machine = OF_ELF.get(elf_machine)
    return machine is not None and machine.has_unwind_tables
