/* What the reading of registers (process/registers.py) shares with user space. Plain C:
 * tests/unit/abi/test_layouts.py compiles it and compares every struct and constant with
 * src/leaktrace/abi/registers.py. */
#ifndef LEAKTRACE_REGISTERS_TYPES_H
#define LEAKTRACE_REGISTERS_TYPES_H

#define SAVED_REGISTERS 21 /* struct pt_regs in words: bpf/include/uapi/linux/ptrace.h */

/* A thread, with the registers that it had when it last entered the kernel. */
struct saved_thread {
    u32 tid;
    u32 tgid;
    u32 is_running; /* on a CPU: the registers are old, or changed while they were read */
    u32 padding;
    u64 fs_base; /* the thread pointer */
    u64 registers[SAVED_REGISTERS];
};

#endif
