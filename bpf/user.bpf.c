/* Where the probes land: one program for each shape of arguments, one for all
 * returns. */

static __always_inline u16 function_hit(struct pt_regs *ctx, u16 by_shape) {
#if USE_COOKIES
    u64 cookie = bpf_get_attach_cookie(ctx);
    return cookie ? cookie : by_shape;
#else
    return by_shape;
#endif
}

/* malloc, valloc, pvalloc (size) */
int enter_size(struct pt_regs *ctx) {
    begin(ctx, function_hit(ctx, FUNCTION_MALLOC), PT_REGS_PARM1(ctx));
    return 0;
}

/* calloc (count, size) */
int enter_count_size(struct pt_regs *ctx) {
    begin(ctx, FUNCTION_CALLOC, PT_REGS_PARM1(ctx) * PT_REGS_PARM2(ctx));
    return 0;
}

/* memalign, aligned_alloc (alignment, size) */
int enter_alignment_size(struct pt_regs *ctx) {
    begin(ctx, function_hit(ctx, FUNCTION_MEMALIGN), PT_REGS_PARM2(ctx));
    return 0;
}

/* posix_memalign (memptr, alignment, size) */
int enter_posix_memalign(struct pt_regs *ctx) {
    struct call *call = begin(ctx, FUNCTION_POSIX_MEMALIGN, PT_REGS_PARM3(ctx));
    if (call)
        call->memptr = PT_REGS_PARM1(ctx);
    return 0;
}

/* realloc (block, size) */
int enter_realloc(struct pt_regs *ctx) {
    struct call *call = begin(ctx, FUNCTION_REALLOC, PT_REGS_PARM2(ctx));
    if (call)
        hold_old(call, PT_REGS_PARM1(ctx));
    return 0;
}

/* reallocarray (block, count, size) */
int enter_reallocarray(struct pt_regs *ctx) {
    struct call *call = begin(ctx, FUNCTION_REALLOCARRAY, PT_REGS_PARM2(ctx) * PT_REGS_PARM3(ctx));
    if (call)
        hold_old(call, PT_REGS_PARM1(ctx));
    return 0;
}

/* free (block): needs no open call, it also counts when an allocator calls it
 * for itself */
int enter_free(struct pt_regs *ctx) {
    release(ctx, PT_REGS_PARM1(ctx));
    return 0;
}

/* mmap (address, length, …) */
int enter_mmap(struct pt_regs *ctx) {
    begin(ctx, FUNCTION_MMAP, PT_REGS_PARM2(ctx));
    return 0;
}

/* munmap (address, length) */
int enter_munmap(struct pt_regs *ctx) {
    u64 address = PT_REGS_PARM1(ctx), length = PT_REGS_PARM2(ctx);
    struct call *call = begin(ctx, FUNCTION_MUNMAP, length);
    if (!call)
        return 0;
    call->address = address;
    send_region(ctx, EVENT_REGION_RELEASE, FUNCTION_MUNMAP, address, length, 0);
    return 0;
}

#define MREMAP_DONTUNMAP 4

/* mremap (address, old length, new length, flags) */
int enter_mremap(struct pt_regs *ctx) {
    u64 address = PT_REGS_PARM1(ctx), old_length = PT_REGS_PARM2(ctx);
    struct call *call = begin(ctx, FUNCTION_MREMAP, PT_REGS_PARM3(ctx));
    if (!call)
        return 0;
    call->address = address;
    /* An old length of 0 maps the same pages a second time (mremap(2)). */
    u64 released = PT_REGS_PARM4(ctx) & MREMAP_DONTUNMAP ? 0 : old_length;
    send_region(ctx, EVENT_REGION_RELEASE, FUNCTION_MREMAP, address, released, 0);
    return 0;
}

int return_from(struct pt_regs *ctx) {
    leave(ctx);
    return 0;
}

/* --- the life of the process
 * ------------------------------------------------------------- */

RAW_TRACEPOINT_PROBE(sched_process_exec) {
    u64 key = thread_key();
    struct session *now = this_session();

    if (!now || now->tgid != key >> 32)
        return 0;
    now->generation++;
    now->exec_time_ns = bpf_ktime_get_ns();
    threads.delete(&key);
    struct event event = {.time_ns = now->exec_time_ns,
                          .kind = EVENT_EXEC,
                          .generation = now->generation,
                          .tid = key};
    send_region_event(ctx, &event);
    return 0;
}

RAW_TRACEPOINT_PROBE(sched_process_exit) {
    u64 key = thread_key();
    threads.delete(&key);
    return 0;
}
