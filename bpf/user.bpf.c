/* Where the probes land: entries by the shape of their arguments, and one program for all returns.
 */

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

/* malloc, valloc, pvalloc (size) */
static __always_inline void on_size(struct pt_regs *ctx, u16 function) {
    begin(ctx, function, PT_REGS_PARM1(ctx));
}

/* calloc (count, size) */
static __always_inline void on_count_size(struct pt_regs *ctx) {
    begin(ctx, FUNCTION_CALLOC, product(PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx)));
}

/* memalign, aligned_alloc (alignment, size) */
static __always_inline void on_alignment_size(struct pt_regs *ctx, u16 function) {
    begin(ctx, function, PT_REGS_PARM2(ctx));
}

/* posix_memalign (memptr, alignment, size) */
static __always_inline void on_posix_memalign(struct pt_regs *ctx) {
    struct call *call = begin(ctx, FUNCTION_POSIX_MEMALIGN, PT_REGS_PARM3(ctx));
    if (call)
        call->memptr = PT_REGS_PARM1(ctx);
}

/* realloc (block, size) and reallocarray (block, count, size) */
static __always_inline void on_resize(struct pt_regs *ctx, u16 function, u64 size) {
    struct call *call = begin(ctx, function, size);
    if (call)
        hold_old(call, PT_REGS_PARM1(ctx));
}

/* mmap (address, length, …) */
static __always_inline void on_mmap(struct pt_regs *ctx) {
    begin(ctx, FUNCTION_MMAP, PT_REGS_PARM2(ctx));
}

/* munmap (address, length) */
static __always_inline void on_munmap(struct pt_regs *ctx) {
    u64 address = PT_REGS_PARM1(ctx), length = PT_REGS_PARM2(ctx);
    struct call *call = begin(ctx, FUNCTION_MUNMAP, length);
    if (!call)
        return;
    call->address = address;
    send_region(ctx, EVENT_REGION_RELEASE, FUNCTION_MUNMAP, address, length, 0);
}

#define MREMAP_DONTUNMAP 4

/* mremap (address, old length, new length, flags) */
static __always_inline void on_mremap(struct pt_regs *ctx) {
    u64 address = PT_REGS_PARM1(ctx), old_length = PT_REGS_PARM2(ctx);
    struct call *call = begin(ctx, FUNCTION_MREMAP, PT_REGS_PARM3(ctx));
    if (!call)
        return;
    call->address = address;
    /* An old length of 0 maps the same pages a second time (mremap(2)). */
    u64 released = PT_REGS_PARM4(ctx) & MREMAP_DONTUNMAP ? 0 : old_length;
    send_region(ctx, EVENT_REGION_RELEASE, FUNCTION_MREMAP, address, released, 0);
}

/* free (block): needs no open call, it also counts when an allocator calls it for itself */
int enter_free(struct pt_regs *ctx) {
    release(ctx, PT_REGS_PARM1(ctx));
    return 0;
}

#if ENTER_BY_COOKIE
/* Every other function: one program, so that one link holds the probes of a whole object. Each
 * link costs tens of milliseconds to close. */
int enter_any(struct pt_regs *ctx) {
    u16 function = bpf_get_attach_cookie(ctx);
    switch (function) {
    case FUNCTION_CALLOC:
        on_count_size(ctx);
        break;
    case FUNCTION_REALLOC:
        on_resize(ctx, function, PT_REGS_PARM2(ctx));
        break;
    case FUNCTION_REALLOCARRAY:
        on_resize(ctx, function, product(PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx)));
        break;
    case FUNCTION_POSIX_MEMALIGN:
        on_posix_memalign(ctx);
        break;
    case FUNCTION_ALIGNED_ALLOC:
    case FUNCTION_MEMALIGN:
        on_alignment_size(ctx, function);
        break;
    case FUNCTION_MMAP:
        on_mmap(ctx);
        break;
    case FUNCTION_MUNMAP:
        on_munmap(ctx);
        break;
    case FUNCTION_MREMAP:
        on_mremap(ctx);
        break;
    default:
        on_size(ctx, function);
    }
    return 0;
}
#else
/* Perf events carry no cookie before Linux 5.15: a program for each shape of arguments. */
int enter_size(struct pt_regs *ctx) {
    on_size(ctx, FUNCTION_MALLOC);
    return 0;
}
int enter_count_size(struct pt_regs *ctx) {
    on_count_size(ctx);
    return 0;
}
int enter_alignment_size(struct pt_regs *ctx) {
    on_alignment_size(ctx, FUNCTION_MEMALIGN);
    return 0;
}
int enter_posix_memalign(struct pt_regs *ctx) {
    on_posix_memalign(ctx);
    return 0;
}
int enter_realloc(struct pt_regs *ctx) {
    on_resize(ctx, FUNCTION_REALLOC, PT_REGS_PARM2(ctx));
    return 0;
}
int enter_reallocarray(struct pt_regs *ctx) {
    on_resize(ctx, FUNCTION_REALLOCARRAY, product(PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx)));
    return 0;
}
int enter_mmap(struct pt_regs *ctx) {
    on_mmap(ctx);
    return 0;
}
int enter_munmap(struct pt_regs *ctx) {
    on_munmap(ctx);
    return 0;
}
int enter_mremap(struct pt_regs *ctx) {
    on_mremap(ctx);
    return 0;
}
#endif

int return_from(struct pt_regs *ctx) {
    leave(ctx);
    return 0;
}
