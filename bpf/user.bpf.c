/* Where the probes land. On kernels that can, one program takes every call, at its entry and, where
 * that is awaited, at its return; on older ones, one takes the entries and one the returns; on
 * still older ones there is one for each shape of arguments. Few programs make few links, each of
 * which costs tens of milliseconds to close. */

/* count * size; where that overflows, a size that no allocator grants: the call is going to fail,
 * and must not look like a request for nothing. */
static __always_inline u64 product(u64 count, u64 size) {
    u64 most = ~0ULL;

    if (!((count | size) >> 32) || !count)
        return count * size;
    /* Hidden from clang, which would make a 128-bit multiplication of it: BPF has none. */
    asm volatile("" : "+r"(most));
    return size > most / count ? ~0ULL : count * size;
}

#define MREMAP_DONTUNMAP 4

/* A call begins. Returns whether its return is awaited. One place for all functions: begin() is
 * long, and clang would compile, and the verifier check, a copy for each. */
static __always_inline int enter(struct pt_regs *ctx, u64 cookie) {
    u16 function = cookie & COOKIE_FUNCTION;
    u64 first = PT_REGS_PARM1(ctx), second = PT_REGS_PARM2(ctx);
    u64 third = PT_REGS_PARM3(ctx), fourth = PT_REGS_PARM4(ctx), size;

    /* Read above: clang would make one read of several, at an offset that the verifier refuses. */
    asm volatile("" : "+r"(first), "+r"(second), "+r"(third), "+r"(fourth));
    switch (function) {
    case FUNCTION_FREE: /* (block): also when an allocator calls it for itself */
        release(ctx, first);
        return 0;
    case FUNCTION_CALLOC: /* (count, size) */
        size = product(first, second);
        break;
    case FUNCTION_REALLOCARRAY: /* (block, count, size) */
        size = product(second, third);
        break;
    case FUNCTION_POSIX_MEMALIGN: /* (memptr, alignment, size) */
    case FUNCTION_MREMAP:         /* (address, old length, new length, flags) */
        size = third;
        break;
    case FUNCTION_REALLOC:       /* (block, size) */
    case FUNCTION_RALLOCX:       /* (block, size, flags) */
    case FUNCTION_ALIGNED_ALLOC: /* (alignment, size) */
    case FUNCTION_MEMALIGN:
    case FUNCTION_MMAP: /* (address, length, ...) */
    case FUNCTION_MUNMAP:
        size = second;
        break;
    default: /* malloc, valloc, pvalloc, operator new, mallocx (size, ...) */
        size = first;
    }
    struct call *call = begin(ctx, function, size, cookie & COOKIE_MAY_PASS);
    if (!call)
        return 0;
    switch (function) {
    case FUNCTION_REALLOC:
    case FUNCTION_REALLOCARRAY:
    case FUNCTION_RALLOCX:
        hold_old(call, first);
        break;
    case FUNCTION_POSIX_MEMALIGN:
        call->memptr = first;
        break;
    case FUNCTION_MUNMAP:
    case FUNCTION_MREMAP:
        call->address = first;
        /* An old length of 0 maps the same pages a second time (mremap(2)). */
        if (function == FUNCTION_MREMAP && (fourth & MREMAP_DONTUNMAP))
            second = 0;
        call->released = second;
        send_region(ctx, EVENT_REGION_RELEASE, function, first, second, 0);
    }
    return 1;
}

#if SESSIONS || !ENTER_BY_COOKIE
int enter_free(struct pt_regs *ctx) {
    enter(ctx, FUNCTION_FREE);
    return 0;
}
#endif

#if SESSIONS
/* Linux 6.13: one program at the entry of a function and, unless it returns 1 there, at its return.
 * Not for free, which nobody waits for: the kernel asks every session on a function, also one that
 * is of another process, and takes its silence for a wish to see the return. */
int on_call(struct pt_regs *ctx) {
    if (bpf_get_func_ip(ctx) == PT_REGS_IP(ctx))
        return !enter(ctx, bpf_get_attach_cookie(ctx));
    count(TALLY_RETURNS);
    leave(ctx);
    return 0;
}
#else
int return_from(struct pt_regs *ctx) {
    leave(ctx);
    return 0;
}
#if ENTER_BY_COOKIE
int enter_any(struct pt_regs *ctx) {
    enter(ctx, bpf_get_attach_cookie(ctx));
    return 0;
}
#else
/* Perf events carry no cookie before Linux 5.15: a program for each shape of arguments. */
int enter_size(struct pt_regs *ctx) {
    enter(ctx, FUNCTION_MALLOC);
    return 0;
}
int enter_count_size(struct pt_regs *ctx) {
    enter(ctx, FUNCTION_CALLOC);
    return 0;
}
int enter_alignment_size(struct pt_regs *ctx) {
    enter(ctx, FUNCTION_MEMALIGN);
    return 0;
}
int enter_posix_memalign(struct pt_regs *ctx) {
    enter(ctx, FUNCTION_POSIX_MEMALIGN);
    return 0;
}
int enter_realloc(struct pt_regs *ctx) {
    enter(ctx, FUNCTION_REALLOC);
    return 0;
}
int enter_reallocarray(struct pt_regs *ctx) {
    enter(ctx, FUNCTION_REALLOCARRAY);
    return 0;
}
int enter_mmap(struct pt_regs *ctx) {
    enter(ctx, FUNCTION_MMAP);
    return 0;
}
int enter_munmap(struct pt_regs *ctx) {
    enter(ctx, FUNCTION_MUNMAP);
    return 0;
}
int enter_mremap(struct pt_regs *ctx) {
    enter(ctx, FUNCTION_MREMAP);
    return 0;
}
#endif
#endif
