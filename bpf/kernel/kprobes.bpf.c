/* Kprobes, for kernels without these tracepoints. The size is known at a function's entry, the
 * address at its return. A call is remembered under its stack pointer, which no other call under
 * way can share, whether it is a task's, an idle loop's or an interrupt's. */

#if WITH_KPROBES

/* Stack pointer -> call under way. A call whose return was missed stays until its stack pointer is
 * used again. Full: the oldest are dropped. */
#define MAX_CALLS 16384
struct kernel_call {
    u64 start_ns;
    u64 entry; /* of the function called */
    u64 size;
    u64 requested;
    u64 stack_id;
    u16 section;
    u16 function;
    u32 unused;
};
BPF_F_TABLE("lru_hash", u64, struct kernel_call, calls, MAX_CALLS, 0);

/* The stack is read at the entry: at the return of a probed function, the stack of kernels before
 * 5.15 ends at the return probes' trampoline. */
static __always_inline void begin_call(struct pt_regs *ctx, struct request *request) {
    u64 sp = PT_REGS_SP(ctx);
    struct kernel_call call = {.start_ns = bpf_ktime_get_ns(),
                               .entry = PT_REGS_IP(ctx),
                               .size = request->size,
                               .requested = request->requested,
                               .section = request->section,
                               .function = request->function};

    if (is_filtered_out(request))
        return;
    struct scratch *scratch = enter_scratch();
    if (!scratch)
        return;
    int wanted = find_site(ctx, scratch, request, &call.stack_id);
    leave_scratch();
    if (!wanted || !calls.insert(&sp, &call))
        return;
    /* Either this is a tail call, which returns together with its caller, or the return of the
     * earlier call was not seen: no function calls itself at its own stack pointer. */
    struct kernel_call *before = calls.lookup(&sp);
    if (before && before->entry == call.entry)
        lose(LOSS_MISSED_RETURNS, 1);
    calls.update(&sp, &call);
}

/* The memory that kmalloc uses for a size: a power of two, or kmalloc-96 or -192
 * (mm/slab_common.c: kmalloc_info). */
static __always_inline u64 kmalloc_footprint(u64 size) {
    u64 power = size > LARGEST_SLAB_CLASS ? PAGE_BYTES : 8;

    if (size > 64 && size <= 96)
        return 96;
    if (size > 128 && size <= 192)
        return 192;
#pragma clang loop unroll(disable)
    for (int i = 0; i < 32; i++) {
        if (power >= size)
            break;
        power <<= 1;
    }
    return power;
}

static __always_inline void begin_kmalloc(struct pt_regs *ctx, u64 size) {
    struct request request = {.size = kmalloc_footprint(size),
                              .requested = size,
                              .section = SECTION_SLAB,
                              .function = KERNEL_KMALLOC,
                              .is_kmalloc = 1};
    begin_call(ctx, &request);
}

int enter_kmalloc(struct pt_regs *ctx) {
    begin_kmalloc(ctx, PT_REGS_PARM1(ctx));
    return 0;
}

int enter_kmalloc_third(struct pt_regs *ctx) {
    begin_kmalloc(ctx, PT_REGS_PARM3(ctx));
    return 0;
}

int enter_kmalloc_fourth(struct pt_regs *ctx) {
    begin_kmalloc(ctx, PT_REGS_PARM4(ctx));
    return 0;
}

#if CACHE_SIZE_OFFSET >= 0
int enter_cache(struct pt_regs *ctx) {
    u64 cache = PT_REGS_PARM1(ctx);
    struct request request = {.size = read_u32(cache + CACHE_SIZE_OFFSET),
                              .requested = read_u32(cache + CACHE_OBJECT_SIZE_OFFSET),
                              .cache = cache,
                              .section = SECTION_SLAB,
                              .function = KERNEL_KMEM_CACHE_ALLOC};
    begin_call(ctx, &request);
    return 0;
}
#endif

int enter_percpu(struct pt_regs *ctx) {
    u64 size = PT_REGS_PARM1(ctx) * POSSIBLE_CPUS;
    struct request request = {.size = size,
                              .requested = size,
                              .section = SECTION_PERCPU,
                              .function = KERNEL_PERCPU_ALLOC};
    begin_call(ctx, &request);
    return 0;
}

int enter_vmalloc(struct pt_regs *ctx) {
    struct request request = {.size = PT_REGS_PARM1(ctx),
                              .requested = PT_REGS_PARM1(ctx),
                              .section = SECTION_VMALLOC,
                              .function = KERNEL_VMALLOC};
    begin_call(ctx, &request);
    return 0;
}

int return_from(struct pt_regs *ctx) {
    u64 sp = PT_REGS_SP(ctx) - RETURN_SP_DELTA;
    struct kernel_call *found = calls.lookup(&sp);

    /* None: filtered out, under way when tracing began, or the second return of a tail call. */
    if (!found)
        return 0;
    struct kernel_call call = *found;
    calls.delete(&sp);
    struct request request = {.address = PT_REGS_RC(ctx),
                              .size = call.size,
                              .requested = call.requested,
                              .section = call.section,
                              .function = call.function};
    if (is_memory(request.address))
        store(ctx, &request, call.stack_id, call.start_ns);
    return 0;
}

int free_first(struct pt_regs *ctx) {
    release(ctx, SECTION_SLAB, KERNEL_KFREE, PT_REGS_PARM1(ctx));
    return 0;
}

int free_second(struct pt_regs *ctx) {
    release(ctx, SECTION_SLAB, KERNEL_KMEM_CACHE_FREE, PT_REGS_PARM2(ctx));
    return 0;
}

int free_percpu_first(struct pt_regs *ctx) {
    release(ctx, SECTION_PERCPU, KERNEL_PERCPU_FREE, PT_REGS_PARM1(ctx));
    return 0;
}

int free_vmalloc(struct pt_regs *ctx) {
    release(ctx, SECTION_VMALLOC, KERNEL_VFREE, PT_REGS_PARM1(ctx));
    return 0;
}

/* kvfree_call_rcu (head, pointer), and before "rcu: Refactor kvfree_call_rcu()" (Linux 6.2)
 * (head, offset of the head in the block), or (NULL, pointer). The block counts as freed. */
int free_by_rcu(struct pt_regs *ctx) {
    u64 head = PT_REGS_PARM1(ctx), second = PT_REGS_PARM2(ctx);

    release(ctx, SECTION_SLAB, KERNEL_KFREE_RCU, second < 4096 ? head - second : second);
    return 0;
}

/* One block of a batch. All state is in memory, so that all iterations look alike to the verifier.
 */
static __always_inline void release_next(void *ctx, struct scratch *scratch) {
    u64 key = key_of(SECTION_SLAB, scratch->batch[scratch->count & (MAX_BULK - 1)]);

    scratch->count++;
    if (!remove_record(key, &scratch->freed)) {
        count_freed(&scratch->freed, 0);
        trace(ctx, THE_KERNEL, EVENT_RELEASE, KERNEL_FREE_BULK, key | 0xFULL << SECTION_SHIFT,
              scratch->freed.size, scratch->freed.stack_id);
    }
    asm volatile("" ::: "memory");
}

/* kmem_cache_free_bulk (cache, count, pointers). Without a cache it is kfree_bulk, which kfree_rcu
 * ends in: its blocks may be many, and are counted as freed already. */
int free_in_bulk(struct pt_regs *ctx) {
    u64 count = PT_REGS_PARM2(ctx);
    struct scratch *scratch = enter_scratch();

    if (!scratch)
        return 0;
    if (count > MAX_BULK && PT_REGS_PARM1(ctx))
        lose(LOSS_BULK_FREES, count - MAX_BULK);
    if (count > MAX_BULK)
        count = MAX_BULK;
    scratch->count = 0;
    bpf_probe_read_kernel(scratch->batch, count * 8, (void *)PT_REGS_PARM3(ctx));
#pragma clang loop unroll(disable)
    for (int i = 0; i < MAX_BULK; i++) {
        if (scratch->count >= count)
            break;
        release_next(ctx, scratch);
    }
    leave_scratch();
    return 0;
}

#endif
