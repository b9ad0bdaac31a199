/* The programs at entries and returns. One program handles all releases. Calls are followed by one
 * program at points inside the functions (point.bpf.c), or by one at their entry and one at their
 * return. Kernels without cookies need one entry program per shape of arguments. Fewer programs
 * mean fewer links, and each link takes tens of milliseconds to close. */

/* count * size. If that overflows, a size that no allocator can return: the call will fail, and
 * must not look like a request for 0 bytes. */
static __always_inline u64 product(u64 count, u64 size) {
    u64 most = ~0ULL;

    if (!((count | size) >> 32) || !count)
        return count * size;
    /* Hidden from clang, which would emit a 128-bit multiplication, which BPF doesn't have. */
    asm volatile("" : "+r"(most));
    return size > most / count ? ~0ULL : count * size;
}

#define MREMAP_DONTUNMAP 4

/* The size that a call requests, at the function's entry. */
static __always_inline u64 size_from_arguments(struct pt_regs *ctx, u16 function) {
    u64 first = PT_REGS_PARM1(ctx), second = PT_REGS_PARM2(ctx), third = PT_REGS_PARM3(ctx);

    /* Read first: clang would merge reads into one at a variable offset, which the verifier
     * refuses. */
    asm volatile("" : "+r"(first), "+r"(second), "+r"(third));
    switch (function) {
    case FUNCTION_CALLOC: /* (count, size) */
        return product(first, second);
    case FUNCTION_REALLOCARRAY: /* (block, count, size) */
        return product(second, third);
    case FUNCTION_POSIX_MEMALIGN: /* (memptr, alignment, size) */
    case FUNCTION_MREMAP:         /* (address, old length, new length, flags) */
        return third;
    case FUNCTION_REALLOC:       /* (block, size) */
    case FUNCTION_RALLOCX:       /* (block, size, flags) */
    case FUNCTION_ALIGNED_ALLOC: /* (alignment, size) */
    case FUNCTION_MEMALIGN:
    case FUNCTION_MMAP: /* (address, length, ...) */
    case FUNCTION_MUNMAP:
        return second;
    default: /* malloc, valloc, pvalloc, operator new, mallocx (size, ...) */
        return first;
    }
}

/* A call begins. Handles all functions at one call of begin_call(), which is long: otherwise clang
 * would compile a copy for each function, and the verifier would check it. */
static __always_inline void enter_call(struct pt_regs *ctx, u16 function, u64 size, u64 sp,
                                       struct start start) {
    u64 first = PT_REGS_PARM1(ctx), second = PT_REGS_PARM2(ctx), fourth = PT_REGS_PARM4(ctx);

    asm volatile("" : "+r"(first), "+r"(second), "+r"(fourth));
    struct call *call = begin_call(ctx, function, size, sp, start);
    if (!call)
        return;
    switch (function) { /* calls of these begin only at the function's entry */
    case FUNCTION_REALLOC:
    case FUNCTION_REALLOCARRAY:
    case FUNCTION_RALLOCX:
        hold_old_record(call, first);
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
}

#if PAIRS
/* One of the arguments of a function that the user named, counted from 1; 1 if none is asked for:
 * an object without a size. */
static __always_inline u64 argument_at(struct pt_regs *ctx, u32 number) {
    u64 first = PT_REGS_PARM1(ctx), second = PT_REGS_PARM2(ctx), third = PT_REGS_PARM3(ctx),
        fourth = PT_REGS_PARM4(ctx), fifth = PT_REGS_PARM5(ctx), sixth = PT_REGS_PARM6(ctx);

    asm volatile("" : "+r"(first), "+r"(second), "+r"(third));
    asm volatile("" : "+r"(fourth), "+r"(fifth), "+r"(sixth));
    switch (number) {
    case 1:
        return first;
    case 2:
        return second;
    case 3:
        return third;
    case 4:
        return fourth;
    case 5:
        return fifth;
    case 6:
        return sixth;
    default:
        return 1;
    }
}

/* The function of a pair that releases objects, at its entry. */
int release_of_pair(struct pt_regs *ctx) {
    u32 cookie = bpf_get_attach_cookie(ctx);

    release_object(ctx, cookie >> COOKIE_SPACE_SHIFT,
                   argument_at(ctx, cookie >> COOKIE_ARGUMENT_SHIFT & COOKIE_MASK));
    return 0;
}
#endif

static __always_inline void enter_by_arguments(struct pt_regs *ctx, u32 cookie) {
    u16 function = cookie & COOKIE_CODE_MASK;
    struct start at_entry = {};
    u64 size;

#if PAIRS
    at_entry.space = cookie >> COOKIE_SPACE_SHIFT;
    if (at_entry.space)
        size = argument_at(ctx, cookie >> COOKIE_ARGUMENT_SHIFT & COOKIE_MASK);
    else
#endif
        size = size_from_arguments(ctx, function);
    enter_call(ctx, function, size, PT_REGS_SP(ctx), at_entry);
}

/* free and similar functions: (block). An allocator's own calls count, too. */
int enter_free(struct pt_regs *ctx) {
    release(ctx, PT_REGS_PARM1(ctx));
    return 0;
}

int return_from(struct pt_regs *ctx) {
    at_return(ctx);
    return 0;
}

#if ENTER_BY_COOKIE
int enter_any(struct pt_regs *ctx) {
    enter_by_arguments(ctx, bpf_get_attach_cookie(ctx));
    return 0;
}
#else
/* Before Linux 5.15 perf events carry no cookie: one program per shape of arguments. */
int enter_size(struct pt_regs *ctx) {
    enter_by_arguments(ctx, FUNCTION_MALLOC);
    return 0;
}
int enter_count_size(struct pt_regs *ctx) {
    enter_by_arguments(ctx, FUNCTION_CALLOC);
    return 0;
}
int enter_alignment_size(struct pt_regs *ctx) {
    enter_by_arguments(ctx, FUNCTION_MEMALIGN);
    return 0;
}
int enter_posix_memalign(struct pt_regs *ctx) {
    enter_by_arguments(ctx, FUNCTION_POSIX_MEMALIGN);
    return 0;
}
int enter_realloc(struct pt_regs *ctx) {
    enter_by_arguments(ctx, FUNCTION_REALLOC);
    return 0;
}
int enter_reallocarray(struct pt_regs *ctx) {
    enter_by_arguments(ctx, FUNCTION_REALLOCARRAY);
    return 0;
}
int enter_mmap(struct pt_regs *ctx) {
    enter_by_arguments(ctx, FUNCTION_MMAP);
    return 0;
}
int enter_munmap(struct pt_regs *ctx) {
    enter_by_arguments(ctx, FUNCTION_MUNMAP);
    return 0;
}
int enter_mremap(struct pt_regs *ctx) {
    enter_by_arguments(ctx, FUNCTION_MREMAP);
    return 0;
}
#endif
