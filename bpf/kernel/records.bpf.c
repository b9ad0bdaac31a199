/* What is outstanding: one record per block, and the totals of each site. */

#define SECTION_BITS (64 - SECTION_SHIFT)

/* All kernel addresses have the same upper bits: four of them hold the section instead. */
static __always_inline u64 key_of(u16 section, u64 address) {
    return address << SECTION_BITS >> SECTION_BITS | (u64)section << SECTION_SHIFT;
}

static __always_inline void count_freed(struct kernel_allocation *allocation, u64 unseen) {
    u64 stack_id = allocation->stack_id;
    struct kernel_site *site = sites.lookup(&stack_id);

    if (!site)
        return;
    __sync_fetch_and_add(&site->freed_bytes, allocation->size);
    __sync_fetch_and_add(&site->freed_requested, allocation->requested);
    __sync_fetch_and_add(&site->freed_count, 1);
    if (unseen)
        __sync_fetch_and_add(&site->unseen_frees, 1);
}

/* Remove a block's record. Returns whether there was one. */
static __always_inline int take(u64 key, struct kernel_allocation *allocation) {
    long error = remove_record(key, allocation);

    if (error && error != -ENOENT)
        lose(LOSS_RELEASES, 1);
    return error == 0;
}

/* A function nested in the one that returns now has recorded the same block. Only the outermost one
 * counts. */
static __always_inline void uncount_allocated(struct kernel_allocation *allocation) {
    u64 stack_id = allocation->stack_id;
    struct kernel_site *site = sites.lookup(&stack_id);

    if (!site)
        return;
    __sync_fetch_and_add(&site->allocated_bytes, -allocation->size);
    __sync_fetch_and_add(&site->allocated_requested, -allocation->requested);
    __sync_fetch_and_add(&site->allocated_count, -1);
}

/* Store a block's record. `since`: when the call began, if functions nested in it may have recorded
 * the same block; otherwise ~0. Returns whether there was room. */
static __always_inline int put(u64 key, struct kernel_allocation *allocation, u64 since) {
    long error = allocations.insert(&key, allocation);

    if (error == -EEXIST) {
        struct kernel_allocation before = {};
        if (take(key, &before)) {
            if (before.time_ns >= since) {
                uncount_allocated(&before);
            } else {
                count_freed(&before, 1);
                lose(LOSS_UNSEEN_FREES, 1);
            }
        }
        error = allocations.update(&key, allocation);
    }
    return is_stored(error, allocation->size);
}

/* --- sites ----------------------------------------------------------------------------------- */

/* An allocation that a probe sees. */
struct request {
    u64 address;
    u64 size; /* the memory used */
    u64 requested;
    u64 cache;     /* struct kmem_cache *, or 0 */
    u64 call_site; /* the return address in the allocator's caller, or 0 */
    u16 section;
    u16 function;
    u16 is_kmalloc;
};

/* Store the stack and make its site, unless that was done before. */
static __always_inline void ensure_site(struct scratch *scratch, u64 stack_id,
                                        struct request *request) {
    if (sites.lookup(&stack_id))
        return;
    if (stack_id)
        store_stack(stack_id, &scratch->stack);
    struct kernel_site *first = &scratch->site;
    first->end = scratch->stack.end;
    first->section = request->section;
    first->context = scratch->stack.context;
    first->object_size = request->is_kmalloc ? request->size : 0;
    __builtin_memset(first->cache, 0, sizeof(first->cache));
#if CACHE_NAME_OFFSET >= 0
    if (request->cache) {
        u64 name = 0;
        bpf_probe_read_kernel(&name, sizeof(name), (void *)request->cache + CACHE_NAME_OFFSET);
        bpf_probe_read_kernel_str(first->cache, sizeof(first->cache), (void *)name);
    }
#endif
    sites.insert(&stack_id, first);
}

static __always_inline void count_allocated(struct kernel_allocation *allocation) {
    u64 stack_id = allocation->stack_id;
    struct kernel_site *site = sites.lookup(&stack_id);

    if (!site) {
        lose(LOSS_SITES, 1);
        return;
    }
    __sync_fetch_and_add(&site->allocated_bytes, allocation->size);
    __sync_fetch_and_add(&site->allocated_requested, allocation->requested);
    __sync_fetch_and_add(&site->allocated_count, 1);
}

static __always_inline int is_filtered_out(struct request *request) {
#if ONE_TASK
    u32 zero = 0;
    struct settings *set = settings.lookup(&zero);
    if (!set || bpf_get_current_pid_tgid() >> 32 != set->task_tgid)
        return 1;
#endif
    if (request->size < MIN_SIZE || request->size > MAX_SIZE)
        return 1;
#if CACHES_FILTERED
    if (request->section != SECTION_SLAB)
        return 1;
    if (request->is_kmalloc) {
        u64 size = request->size > LARGEST_SLAB_CLASS ? 0 : request->size;
        if (!wanted_sizes.lookup(&size))
            return 1;
    } else {
#if CACHE_NAME_OFFSET >= 0
        struct cache_name name = {};
        u64 place = 0;
        if (!request->cache)
            return 1;
        bpf_probe_read_kernel(&place, sizeof(place), (void *)request->cache + CACHE_NAME_OFFSET);
        bpf_probe_read_kernel_str(&name, sizeof(name), (void *)place);
        if (!wanted_caches.lookup(&name))
            return 1;
#else
        return 1;
#endif
    }
#endif
#if SAMPLE_RATE > 1
    if (bpf_get_prandom_u32() % SAMPLE_RATE)
        return 1;
#endif
    return 0;
}

static __always_inline int is_unwanted_context(u16 context) {
    if (!(CONTEXTS >> context & 1))
        return 1;
    if (context != CONTEXT_PROCESS)
        return ONE_TASK;
    u32 zero = 0;
    struct settings *set = settings.lookup(&zero);
    return set && set->own_tgid && bpf_get_current_pid_tgid() >> 32 == set->own_tgid;
}

/* Find the site of a request by the current stack. Returns 0 if it is not to be recorded. */
static __always_inline int find_site(void *ctx, struct scratch *scratch, struct request *request,
                                     u64 *stack_id) {
    u64 class = request->size > LARGEST_SLAB_CLASS ? 0 : request->size;
    u64 seed = mix(1 + request->section, request->is_kmalloc ? class : request->cache);

    *stack_id = read_stack(ctx, scratch, request->call_site, seed);
    if (is_unwanted_context(scratch->stack.context))
        return 0;
    ensure_site(scratch, *stack_id, request);
    return 1;
}

/* Record an allocation. `since`: see put. */
static __always_inline void store(void *ctx, struct request *request, u64 stack_id, u64 since) {
    struct kernel_allocation allocation = {.size = request->size,
                                           .time_ns = bpf_ktime_get_ns(),
                                           .stack_id = stack_id,
                                           .requested = request->requested};
    if (put(key_of(request->section, request->address), &allocation, since))
        count_allocated(&allocation);
    trace(ctx, THE_KERNEL, EVENT_ALLOCATE, request->function, request->address, request->size,
          stack_id);
}

/* NULL, ZERO_SIZE_PTR (16) and error pointers are not memory. */
static __always_inline int is_memory(u64 address) {
    return address > 16 && address < -4095ULL;
}

/* --- probes ---------------------------------------------------------------------------------- */

static __always_inline void record(void *ctx, struct request *request) {
    if (is_filtered_out(request))
        return;
    struct scratch *scratch = enter_scratch();
    if (!scratch)
        return;
    u64 stack_id = 0;
    if (find_site(ctx, scratch, request, &stack_id))
        store(ctx, request, stack_id, ~0ULL);
    leave_scratch();
}

static __always_inline void release(void *ctx, u16 section, u16 function, u64 address) {
    struct kernel_allocation allocation = {};
    u32 index = section;

    if (!is_memory(address))
        return;
    if (take(key_of(section, address), &allocation)) {
        count_freed(&allocation, 0);
        trace(ctx, THE_KERNEL, EVENT_RELEASE, function, address, allocation.size,
              allocation.stack_id);
        return;
    }
    u64 *older = older_releases.lookup(&index);
    if (older)
        *older += 1;
}

static __always_inline u32 read_u32(u64 address) {
    u32 value = 0;

    bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
    return value;
}
