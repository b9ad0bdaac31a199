/*
 * The registers of an interrupted program, as the kernel hands them to a probe, with the kernel's
 * member names: bcc's PT_REGS_PARM1, PT_REGS_RC, PT_REGS_IP and PT_REGS_SP are written with them.
 * The layouts are ABI: arch/x86/include/asm/ptrace.h, arch/arm64/include/uapi/asm/ptrace.h.
 */
#pragma once

#include <linux/types.h>

#if defined(__aarch64__)

struct user_pt_regs {
    __u64 regs[31];
    __u64 sp;
    __u64 pc;
    __u64 pstate;
};

/* The kernel's own struct continues after these members, with nothing that a probe needs. */
struct pt_regs {
    union {
        struct user_pt_regs user_regs;
        struct {
            __u64 regs[31];
            __u64 sp;
            __u64 pc;
            __u64 pstate;
        };
    };
};

#elif defined(__x86_64__)

struct pt_regs {
    unsigned long r15;
    unsigned long r14;
    unsigned long r13;
    unsigned long r12;
    unsigned long bp;
    unsigned long bx;
    unsigned long r11;
    unsigned long r10;
    unsigned long r9;
    unsigned long r8;
    unsigned long ax;
    unsigned long cx;
    unsigned long dx;
    unsigned long si;
    unsigned long di;
    unsigned long orig_ax;
    unsigned long ip;
    unsigned long cs;
    unsigned long flags;
    unsigned long sp;
    unsigned long ss;
};

#else
#error "no struct pt_regs for this architecture: add it from arch/*/include/asm/ptrace.h"
#endif
