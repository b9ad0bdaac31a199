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

/* The argument with this number (the lowest three bits), from 1. Each is read by itself: clang
 * would merge the reads into one at a variable offset, which the verifier refuses. */
#define ARGUMENT(name)                                                                             \
    do {                                                                                           \
        u64 held = PT_REGS_##name(ctx);                                                            \
        asm volatile("" : "+r"(held));                                                             \
        return held;                                                                               \
    } while (0)

static __always_inline u64 argument(struct pt_regs *ctx, u16 number) {
    switch (number & SHAPE_ARGUMENT_MASK) {
    case 1:
        ARGUMENT(PARM1);
    case 2:
        ARGUMENT(PARM2);
    case 3:
        ARGUMENT(PARM3);
    case 4:
        ARGUMENT(PARM4);
    case 5:
        ARGUMENT(PARM5);
    case 6:
        ARGUMENT(PARM6);
    default:
        return 0;
    }
}

/* The size that a call requests, at the function's entry. */
static __always_inline u64 size_from_arguments(struct pt_regs *ctx, u16 shape) {
    u64 size = argument(ctx, shape >> SHAPE_SIZE_SHIFT);
    u16 count = shape >> SHAPE_COUNT_SHIFT & SHAPE_ARGUMENT_MASK;

    if (count && shape >> SHAPE_OUTCOME_SHIFT != OUTCOME_NEW_SIZE)
        size = product(argument(ctx, count), size);
#if PAIRS
    if (!(shape >> SHAPE_SIZE_SHIFT & SHAPE_ARGUMENT_MASK))
        return 1; /* an object that has no size */
#endif
    return size;
}

/* What a call needs besides its size, at the function's entry. */
static __always_inline void keep_arguments(struct pt_regs *ctx, struct session *now,
                                           struct call *call, u16 shape) {
    u16 old = shape >> SHAPE_OLD_SHIFT & SHAPE_ARGUMENT_MASK;
    u16 memptr = shape >> SHAPE_MEMPTR_SHIFT & SHAPE_ARGUMENT_MASK;
    u64 block = argument(ctx, old);

    call->outcome = shape >> SHAPE_OUTCOME_SHIFT;
    if (call->outcome == OUTCOME_NEW_SIZE)
        call->extra = argument(ctx, shape >> SHAPE_COUNT_SHIFT);
    else
        call->memptr = argument(ctx, memptr);
    if (old && old == memptr && bpf_probe_read_user(&block, sizeof(block), (void *)call->memptr))
        block = 0;
    if (old)
        hold_old_record(now, call, block);
}

/* A call begins. Handles all functions at one call of begin_call(), which is long: otherwise clang
 * would compile a copy for each function, and the verifier would check it. */
static __always_inline void enter_call(struct pt_regs *ctx, struct session *now, u16 function,
                                       u16 shape, u64 size, u64 sp, struct start start) {
    u64 first = PT_REGS_PARM1(ctx), second = PT_REGS_PARM2(ctx), fourth = PT_REGS_PARM4(ctx);

    asm volatile("" : "+r"(first), "+r"(second), "+r"(fourth));
    struct call *call = begin_call(ctx, now, function, size, sp, start);
    if (!call)
        return;
    if (shape >> SHAPE_OLD_SHIFT) /* these calls begin only at the function's entry */
        keep_arguments(ctx, now, call, shape);
    switch (function) { /* and so do these */
    case FUNCTION_MUNMAP:
    case FUNCTION_MREMAP:
        call->address = first;
        /* An old length of 0 maps the same pages a second time (mremap(2)). */
        if (function == FUNCTION_MREMAP && (fourth & MREMAP_DONTUNMAP))
            second = 0;
        call->released = second;
        send_region(ctx, now, EVENT_REGION_RELEASE, function, first, second, 0);
        break;
    case FUNCTION_SHMDT: /* user space knows the size of what is attached there */
        call->address = first;
        call->size = UNKNOWN_SIZE;
        send_region(ctx, now, EVENT_REGION_RELEASE, function, first, 0, 0);
        break;
    case FUNCTION_BRK:
        see_break(now);
    }
}

static __always_inline void enter_by_arguments(struct pt_regs *ctx, u16 function, u16 shape) {
    struct session *now = session_of_probe(ctx);
    struct start at_entry = {.space = space_of_probe(ctx)};

    if (now)
        enter_call(ctx, now, function, shape, size_from_arguments(ctx, shape), PT_REGS_SP(ctx),
                   at_entry);
}

/* free and similar functions: (block). An allocator's own calls count, too. */
int enter_free(struct pt_regs *ctx) {
    struct session *now = session_of_probe(ctx);

    if (now)
        release(ctx, now, PT_REGS_PARM1(ctx));
    return 0;
}

#if HAS_SPACES || STOP_AT_START
/* The first instruction of a program, after the dynamic loader: a command is stopped here, and not
 * at the first call, whose stack would have no unwind tables. Nor would its function be hooked, if
 * it is in a library that no program before has mapped. */
int at_start(struct pt_regs *ctx) {
    struct session *now = session_of_probe(ctx);

    if (now)
        this_thread(ctx, now, HEAP_SPACE, FUNCTION_START);
    return 0;
}
#endif

#if PAIRS
/* The release of a pair, at its entry. */
int release_of_pair(struct pt_regs *ctx) {
    u64 cookie = bpf_get_attach_cookie(ctx);
    u16 shape = cookie >> COOKIE_SHAPE_SHIFT;
    struct session *now = session_of_probe(ctx);

    if (now)
        release_object(ctx, now, cookie >> COOKIE_SPACE_SHIFT,
                       argument(ctx, shape >> SHAPE_OLD_SHIFT));
    return 0;
}
#endif

int return_from(struct pt_regs *ctx) {
    struct session *now = session_of_probe(ctx);

    if (now)
        at_return(ctx, now);
    return 0;
}

#if ENTER_BY_COOKIE
int enter_any(struct pt_regs *ctx) {
    u32 cookie = bpf_get_attach_cookie(ctx);

    enter_by_arguments(ctx, cookie, cookie >> COOKIE_SHAPE_SHIFT);
    return 0;
}
#else
/* Before Linux 5.15 perf events carry no cookie: one program per shape of arguments. Functions of
 * other shapes are not hooked there (_PROGRAMS in process/probes/allocators.py). */
#define SHAPE(size, count, old, memptr, outcome)                                                   \
    ((size) << SHAPE_SIZE_SHIFT | (count) << SHAPE_COUNT_SHIFT | (old) << SHAPE_OLD_SHIFT |        \
     (memptr) << SHAPE_MEMPTR_SHIFT | (outcome) << SHAPE_OUTCOME_SHIFT)

int enter_size(struct pt_regs *ctx) {
    enter_by_arguments(ctx, FUNCTION_MALLOC, SHAPE(1, 0, 0, 0, OUTCOME_BLOCK));
    return 0;
}
int enter_count_size(struct pt_regs *ctx) {
    enter_by_arguments(ctx, FUNCTION_CALLOC, SHAPE(2, 1, 0, 0, OUTCOME_BLOCK));
    return 0;
}
int enter_alignment_size(struct pt_regs *ctx) {
    enter_by_arguments(ctx, FUNCTION_MEMALIGN, SHAPE(2, 0, 0, 0, OUTCOME_BLOCK));
    return 0;
}
int enter_posix_memalign(struct pt_regs *ctx) {
    enter_by_arguments(ctx, FUNCTION_POSIX_MEMALIGN, SHAPE(3, 0, 0, 1, OUTCOME_STATUS));
    return 0;
}
int enter_realloc(struct pt_regs *ctx) {
    enter_by_arguments(ctx, FUNCTION_REALLOC, SHAPE(2, 0, 1, 0, OUTCOME_BLOCK));
    return 0;
}
int enter_reallocarray(struct pt_regs *ctx) {
    enter_by_arguments(ctx, FUNCTION_REALLOCARRAY, SHAPE(3, 2, 1, 0, OUTCOME_BLOCK));
    return 0;
}
int enter_mmap(struct pt_regs *ctx) {
    enter_by_arguments(ctx, FUNCTION_MMAP, SHAPE(2, 0, 0, 0, OUTCOME_BLOCK));
    return 0;
}
int enter_munmap(struct pt_regs *ctx) {
    enter_by_arguments(ctx, FUNCTION_MUNMAP, SHAPE(2, 0, 0, 0, OUTCOME_BLOCK));
    return 0;
}
int enter_mremap(struct pt_regs *ctx) {
    enter_by_arguments(ctx, FUNCTION_MREMAP, SHAPE(3, 0, 0, 0, OUTCOME_BLOCK));
    return 0;
}
int enter_shmat(struct pt_regs *ctx) {
    enter_by_arguments(ctx, FUNCTION_SHMAT, 0);
    return 0;
}
int enter_shmdt(struct pt_regs *ctx) {
    enter_by_arguments(ctx, FUNCTION_SHMDT, 0);
    return 0;
}
int enter_brk(struct pt_regs *ctx) {
    enter_by_arguments(ctx, FUNCTION_BRK, 0);
    return 0;
}
#endif
