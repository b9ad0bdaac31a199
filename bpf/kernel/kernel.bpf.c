/* Kernel mode: allocations of the kernel itself.
 *
 * Raw tracepoints carry size and pointer in one event, so nothing has to be remembered between an
 * entry and a return. Kprobes do need that: a call is remembered under its stack pointer, which no
 * two calls that are under way at a time can share, whichever task, idle loop or interrupt they
 * belong to. What user space knows of the running kernel (arguments of its tracepoints, offsets of
 * struct kmem_cache, addresses of its interrupt entries) comes as -D knobs. */

/* --- knobs ----------------------------------------------------------------------------------- */

/* 1: only what one process allocates in its own context, `task_tgid` of the settings. */
#ifndef ONE_TASK
#define ONE_TASK 0
#endif
/* Which enum context are recorded, a bit each. */
#ifndef CONTEXTS
#define CONTEXTS 7
#endif
/* 1: only caches named in the map `wanted_caches`, and kmalloc sizes in `wanted_sizes`. */
#ifndef CACHES_FILTERED
#define CACHES_FILTERED 0
#endif

/* Offsets in struct kmem_cache; -1: not known. */
#ifndef CACHE_NAME_OFFSET
#define CACHE_NAME_OFFSET -1
#endif
#ifndef CACHE_OBJECT_SIZE_OFFSET
#define CACHE_OBJECT_SIZE_OFFSET -1
#endif
#ifndef CACHE_SIZE_OFFSET
#define CACHE_SIZE_OFFSET -1
#endif

/* Code at which a stack ends: interrupts entered on top of somebody else's stack, system calls and
 * threads at their own. An empty range where the kernel hides its addresses. */
#ifndef SOFTIRQ_START
#define SOFTIRQ_START 1ULL
#define SOFTIRQ_END 1ULL
#endif
#ifndef IRQ_START
#define IRQ_START 1ULL
#define IRQ_END 1ULL
#endif
#ifndef ENTRY_START
#define ENTRY_START 1ULL
#define ENTRY_END 1ULL
#endif
#ifndef FORK_START
#define FORK_START 1ULL
#define FORK_END 1ULL
#endif
/* What bpf_get_stack returns at most: sysctl kernel.perf_event_max_stack. */
#ifndef STACK_LIMIT
#define STACK_LIMIT MAX_FRAMES
#endif

#ifndef PAGE_BYTES
#define PAGE_BYTES 4096ULL
#endif
#ifndef POSSIBLE_CPUS
#define POSSIBLE_CPUS 1
#endif
#ifndef MAX_CALLS
#define MAX_CALLS 16384
#endif

/* --- maps ------------------------------------------------------------------------------------ */

BPF_ARRAY(settings, struct settings, 1);

/* section and address -> allocation. Full: counted as lost, with its bytes. All maps are allocated
 * when they are loaded: a tracer of the allocator should not call it. */
BPF_F_TABLE("hash", u64, struct kernel_allocation, allocations, CAPACITY_LATER, 0);

/* stack id -> counters. Full: the allocation is still recorded, its site has no totals. */
BPF_F_TABLE("hash", u64, struct kernel_site, sites, CAPACITY_LATER, 0);

/* stack id -> frames, written once. Full: the site is reported without its stack. */
BPF_F_TABLE("hash", u64, struct kernel_stack, stacks, CAPACITY_LATER, 0);

/* Stack pointer -> kprobed call under way. A call whose return was missed stays until its place on
 * the stack is used again, or until the oldest have to go. */
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

struct cache_name {
    char text[CACHE_NAME_BYTES];
};
BPF_F_TABLE("hash", struct cache_name, u8, wanted_caches, 4096, 0);
BPF_F_TABLE("hash", u64, u8, wanted_sizes, 64, 0);

/* Where a stack is read into. Programs on one CPU nest (an interrupt in a task's), each has its
 * own; more than these are skipped, and counted. */
#define MAX_NESTING 4
struct scratch {
    struct kernel_stack stack;
    struct kernel_site site;
    u64 hash;
    u64 call_site;
    u64 count;
    u64 batch[64]; /* of blocks that are freed together */
    struct kernel_allocation freed;
};
BPF_PERCPU_ARRAY(scratches, struct scratch, MAX_NESTING);
BPF_PERCPU_ARRAY(nesting, u32, 1);

BPF_ARRAY(losses, u64, KERNEL_LOSS_KINDS);
/* Releases of blocks that were allocated before tracing began, by section. */
BPF_PERCPU_ARRAY(older_releases, u64, 4);

#if TRACE
#if USE_RING_BUFFER
BPF_RINGBUF_OUTPUT(trace_events, CAPACITY_LATER);
#else
BPF_PERF_OUTPUT(trace_events);
#endif
#endif

static __always_inline void lose(u32 kind, u64 amount) {
    u64 *counter = losses.lookup(&kind);
    if (counter)
        __sync_fetch_and_add(counter, amount);
}

/* The present program's own place; NULL, and counted, when there is none left. An interrupt between
 * reading and writing the number leaves it as it found it. */
static __always_inline struct scratch *enter_scratch(void) {
    u32 zero = 0;
    u32 *depth = nesting.lookup(&zero);

    if (!depth)
        return 0;
    u32 mine = *depth;
    struct scratch *scratch = scratches.lookup(&mine);
    if (!scratch) {
        lose(KERNEL_LOSS_NESTED, 1);
        return 0;
    }
    *depth = mine + 1;
    asm volatile("" ::: "memory");
    return scratch;
}

static __always_inline void leave_scratch(void) {
    u32 zero = 0;
    u32 *depth = nesting.lookup(&zero);

    asm volatile("" ::: "memory");
    if (depth)
        *depth -= 1;
}

#if TRACE
static __always_inline void trace(void *ctx, u16 kind, u16 function, u64 address, u64 size,
                                  u64 stack_id) {
    struct event event = {.time_ns = bpf_ktime_get_ns(),
                          .address = address,
                          .size = size,
                          .stack_id = stack_id,
                          .tid = bpf_get_current_pid_tgid(),
                          .kind = kind,
                          .function = function};
#if USE_RING_BUFFER
    long error = trace_events.ringbuf_output(&event, sizeof(event), 0);
#else
    long error = trace_events.perf_submit(ctx, &event, sizeof(event));
#endif
    if (error)
        lose(KERNEL_LOSS_EVENTS, 1);
}
#else
#define trace(...)
#endif

/* --- records --------------------------------------------------------------------------------- */

/* Kernel addresses have their upper bits set, all alike: four of them tell the section instead. */
static __always_inline u64 key_of(u16 section, u64 address) {
    return address << 4 >> 4 | (u64)section << 60;
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

static __always_inline int take(u64 key, struct kernel_allocation *allocation) {
    struct kernel_allocation *recorded = allocations.lookup(&key);

    if (!recorded)
        return 0;
    *allocation = *recorded;
    long error = allocations.delete(&key);
    if (!error)
        return 1;
    if (error != -2) /* ENOENT: another CPU was first */
        lose(KERNEL_LOSS_RELEASES, 1);
    return 0;
}

/* A function nested in the one that returns now has recorded the same block: the outermost counts.
 */
static __always_inline void uncount(struct kernel_allocation *allocation) {
    u64 stack_id = allocation->stack_id;
    struct kernel_site *site = sites.lookup(&stack_id);

    if (!site)
        return;
    __sync_fetch_and_add(&site->allocated_bytes, -allocation->size);
    __sync_fetch_and_add(&site->allocated_requested, -allocation->requested);
    __sync_fetch_and_add(&site->allocated_count, -1);
}

/* `since`: when the call began, where nested functions may have recorded the block; otherwise ~0 */
static __always_inline int put(u64 key, struct kernel_allocation *allocation, u64 since) {
    long error = allocations.insert(&key, allocation);

    if (error == -17) { /* EEXIST */
        struct kernel_allocation before = {};
        if (take(key, &before)) {
            if (before.time_ns >= since) {
                uncount(&before);
            } else {
                count_freed(&before, 1);
                lose(KERNEL_LOSS_UNSEEN_FREES, 1);
            }
        }
        error = allocations.update(&key, allocation);
    }
    if (error) {
        lose(KERNEL_LOSS_ALLOCATIONS, 1);
        lose(KERNEL_LOSS_ALLOCATION_BYTES, allocation->size);
    }
    return error == 0;
}

/* --- stacks ---------------------------------------------------------------------------------- */

static __always_inline u64 mix(u64 hash, u64 value) {
    hash = (hash ^ value) * 0x9E3779B97F4A7C15ULL;
    return hash ^ (hash >> 29);
}

#define WITHIN(pc, start, end) ((u64)(pc) - (start) < (end) - (start))

/* Read the stack, and find its end and its context. An interrupt's stack ends where the interrupt
 * was entered: whom it interrupted has nothing to do with what it allocates. The loop's state lies
 * in memory, so that all iterations look alike to the verifier. Returns the stack's id, 0: none. */
static __always_inline u64 read_stack(void *ctx, struct scratch *scratch, u64 call_site, u64 seed) {
    struct kernel_stack *stack = &scratch->stack;
    long bytes = bpf_get_stack(ctx, stack->pc, MAX_FRAMES * 8, 0);

    stack->skipped = 0;
    stack->context = CONTEXT_PROCESS;
    stack->end = END_UNKNOWN;
    stack->frame_count = 0;
    if (bytes < 8) {
        lose(KERNEL_LOSS_FAILED_STACKS, 1);
        return 0;
    }
    scratch->call_site = call_site;
    scratch->hash = seed;
    scratch->count = (u64)bytes >> 3;
    if (scratch->count >= STACK_LIMIT)
        stack->end = END_TRUNCATED;
#pragma clang loop unroll(disable)
    for (int i = 0; i < MAX_FRAMES; i++) {
        if (i >= scratch->count)
            break;
        u64 pc = stack->pc[i & 127];
        if (i < 16 && pc == scratch->call_site && !stack->skipped) {
            stack->skipped = i;
            scratch->hash = seed;
        }
        scratch->hash = mix(scratch->hash, pc);
        stack->frame_count = i + 1;
        if (WITHIN(pc, SOFTIRQ_START, SOFTIRQ_END)) {
            stack->context = CONTEXT_SOFTIRQ;
            scratch->count = 0;
        }
        if (WITHIN(pc, IRQ_START, IRQ_END)) {
            stack->context = CONTEXT_IRQ;
            scratch->count = 0;
        }
        asm volatile("" ::: "memory");
    }
    u64 last = stack->pc[(stack->frame_count - 1) & 127];
    if (stack->context != CONTEXT_PROCESS || WITHIN(last, ENTRY_START, ENTRY_END) ||
        WITHIN(last, FORK_START, FORK_END))
        stack->end = END_COMPLETE;
    if (stack->end == END_TRUNCATED)
        lose(KERNEL_LOSS_TRUNCATED_STACKS, 1);
    return mix(scratch->hash, stack->context) | 1;
}

/* --- allocations ----------------------------------------------------------------------------- */

struct request {
    u64 address;
    u64 size; /* the footprint */
    u64 requested;
    u64 cache;     /* struct kmem_cache *, or 0 */
    u64 call_site; /* the return address in the allocator's caller, or 0 */
    u16 section;
    u16 function;
    u16 is_kmalloc;
};

/* Store the stack, and begin its site's counters, unless that was done before. */
static __always_inline void know_site(struct scratch *scratch, u64 stack_id,
                                      struct request *request) {
    if (sites.lookup(&stack_id))
        return;
    if (stack_id) {
        long error = stacks.insert(&stack_id, &scratch->stack);
        if (error && error != -17) /* EEXIST: another CPU was first */
            lose(KERNEL_LOSS_STACKS, 1);
    }
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
        lose(KERNEL_LOSS_SITES, 1);
        return;
    }
    __sync_fetch_and_add(&site->allocated_bytes, allocation->size);
    __sync_fetch_and_add(&site->allocated_requested, allocation->requested);
    __sync_fetch_and_add(&site->allocated_count, 1);
}

static __always_inline int filtered_out(struct request *request) {
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

static __always_inline int context_unwanted(u16 context) {
    if (!(CONTEXTS >> context & 1))
        return 1;
    if (context != CONTEXT_PROCESS)
        return ONE_TASK;
    u32 zero = 0;
    struct settings *set = settings.lookup(&zero);
    return set && set->own_tgid && bpf_get_current_pid_tgid() >> 32 == set->own_tgid;
}

/* The site of a request, from the stack of this moment. Returns 0 if it is to be left out. */
static __always_inline int find_site(void *ctx, struct scratch *scratch, struct request *request,
                                     u64 *stack_id) {
    u64 class = request->size > LARGEST_SLAB_CLASS ? 0 : request->size;
    u64 seed = mix(1 + request->section, request->is_kmalloc ? class : request->cache);

    *stack_id = read_stack(ctx, scratch, request->call_site, seed);
    if (context_unwanted(scratch->stack.context))
        return 0;
    know_site(scratch, *stack_id, request);
    return 1;
}

/* `since`: see put */
static __always_inline void store(void *ctx, struct request *request, u64 stack_id, u64 since) {
    struct kernel_allocation allocation = {.size = request->size,
                                           .time_ns = bpf_ktime_get_ns(),
                                           .stack_id = stack_id,
                                           .requested = request->requested};
    if (put(key_of(request->section, request->address), &allocation, since))
        count_allocated(&allocation);
    trace(ctx, EVENT_ALLOCATE, request->function, request->address, request->size, stack_id);
}

/* NULL, ZERO_SIZE_PTR (16) and error pointers are no memory. */
static __always_inline int is_memory(u64 address) {
    return address > 16 && address < -4095ULL;
}

static __always_inline void record(void *ctx, struct request *request) {
    if (filtered_out(request))
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
        trace(ctx, EVENT_RELEASE, function, address, allocation.size, allocation.stack_id);
        return;
    }
    u64 *older = older_releases.lookup(&index);
    if (older)
        *older += 1;
}

static __always_inline u32 read_half(u64 address) {
    u32 half = 0;

    bpf_probe_read_kernel(&half, sizeof(half), (void *)address);
    return half;
}

/* --- tracepoints -----------------------------------------------------------------------------
 * X_ARGUMENT knobs are places in ctx->args. They differ between kernels, whose type information
 * tells them (kernel/probes/tracepoints.py).
 *
 * Since Linux 6.1 the kernel skips a program that is under way on the same CPU already ("bpf:
 * Prevent bpf program recursion for raw tracepoint probes"): what an interrupt frees in that
 * moment would look outstanding for ever. So each tracepoint has two programs, both attached. The
 * second one does nothing, unless it finds the first one interrupted. */

enum event_source {
    SOURCE_kmalloc,
    SOURCE_kfree,
    SOURCE_kmem_cache_alloc,
    SOURCE_kmem_cache_free,
    SOURCE_mm_page_alloc,
    SOURCE_mm_page_free,
    SOURCE_percpu_alloc_percpu,
    SOURCE_percpu_free_percpu,
    SOURCE_alloc_vmap_area,
    SOURCE_free_vmap_area_noflush,
    SOURCES,
};
BPF_PERCPU_ARRAY(under_way, u32, SOURCES);

static __always_inline void mark_under_way(u32 source, u32 value) {
    u32 *mark = under_way.lookup(&source);

    asm volatile("" ::: "memory");
    if (mark)
        *mark = value;
    asm volatile("" ::: "memory");
}

static __always_inline int is_under_way(u32 source) {
    u32 *mark = under_way.lookup(&source);

    return mark && *mark;
}

/* Before Linux 6.1 the first one nests in itself, and has to leave no mark for the second. */
#define TWO_PROGRAMS(event)                                                                        \
    int at_##event(struct bpf_raw_tracepoint_args *ctx) {                                          \
        mark_under_way(SOURCE_##event, 1);                                                         \
        on_##event(ctx);                                                                           \
        mark_under_way(SOURCE_##event, 0);                                                         \
        return 0;                                                                                  \
    }                                                                                              \
    int again_##event(struct bpf_raw_tracepoint_args *ctx) {                                       \
        if (is_under_way(SOURCE_##event)) {                                                        \
            lose(KERNEL_LOSS_MADE_UP_FOR, 1);                                                      \
            on_##event(ctx);                                                                       \
        }                                                                                          \
        return 0;                                                                                  \
    }

#ifdef KMALLOC_PTR

static __always_inline void on_kmalloc(struct bpf_raw_tracepoint_args *ctx) {
    struct request request = {.address = ctx->args[KMALLOC_PTR],
                              .size = ctx->args[KMALLOC_BYTES_ALLOC],
                              .requested = ctx->args[KMALLOC_BYTES_REQ],
                              .call_site = ctx->args[0],
                              .section = SECTION_SLAB,
                              .function = KERNEL_KMALLOC,
                              .is_kmalloc = 1};
    if (is_memory(request.address))
        record(ctx, &request);
}
TWO_PROGRAMS(kmalloc)

static __always_inline void on_kfree(struct bpf_raw_tracepoint_args *ctx) {
    release(ctx, SECTION_SLAB, KERNEL_KFREE, ctx->args[1]);
}
TWO_PROGRAMS(kfree)
#endif

#ifdef KMEM_CACHE_ALLOC_PTR
static __always_inline void on_kmem_cache_alloc(struct bpf_raw_tracepoint_args *ctx) {
    struct request request = {.address = ctx->args[KMEM_CACHE_ALLOC_PTR],
                              .call_site = ctx->args[0],
                              .section = SECTION_SLAB,
                              .function = KERNEL_KMEM_CACHE_ALLOC};
    if (!is_memory(request.address))
        return;
#ifdef KMEM_CACHE_ALLOC_CACHE
    request.cache = ctx->args[KMEM_CACHE_ALLOC_CACHE];
#endif
#ifdef KMEM_CACHE_ALLOC_BYTES_REQ
    request.requested = ctx->args[KMEM_CACHE_ALLOC_BYTES_REQ];
    request.size = ctx->args[KMEM_CACHE_ALLOC_BYTES_ALLOC];
#else
    request.requested = read_half(request.cache + CACHE_OBJECT_SIZE_OFFSET);
    request.size = read_half(request.cache + CACHE_SIZE_OFFSET);
#endif
    record(ctx, &request);
}
TWO_PROGRAMS(kmem_cache_alloc)

static __always_inline void on_kmem_cache_free(struct bpf_raw_tracepoint_args *ctx) {
    release(ctx, SECTION_SLAB, KERNEL_KMEM_CACHE_FREE, ctx->args[1]);
}
TWO_PROGRAMS(kmem_cache_free)
#endif

#ifdef MM_PAGE_ALLOC_PTR
/* A page is known by its struct page. Of pages that are split after their allocation the first one
 * stands for all. */
static __always_inline void on_mm_page_alloc(struct bpf_raw_tracepoint_args *ctx) {
    u64 size = PAGE_BYTES << (ctx->args[MM_PAGE_ALLOC_ORDER] & 31);
    struct request request = {.address = ctx->args[MM_PAGE_ALLOC_PTR],
                              .size = size,
                              .requested = size,
                              .section = SECTION_PAGES,
                              .function = KERNEL_PAGE_ALLOC};
    if (is_memory(request.address))
        record(ctx, &request);
}
TWO_PROGRAMS(mm_page_alloc)

static __always_inline void on_mm_page_free(struct bpf_raw_tracepoint_args *ctx) {
    release(ctx, SECTION_PAGES, KERNEL_PAGE_FREE, ctx->args[0]);
}
TWO_PROGRAMS(mm_page_free)
#endif

#ifdef PERCPU_ALLOC_PERCPU_PTR
static __always_inline void on_percpu_alloc_percpu(struct bpf_raw_tracepoint_args *ctx) {
    u64 size = ctx->args[PERCPU_ALLOC_PERCPU_BYTES_REQ] * POSSIBLE_CPUS;
    struct request request = {.address = ctx->args[PERCPU_ALLOC_PERCPU_PTR],
                              .size = size,
                              .requested = size,
                              .section = SECTION_PERCPU,
                              .function = KERNEL_PERCPU_ALLOC};
#ifdef PERCPU_ALLOC_PERCPU_BYTES_ALLOC
    request.size = ctx->args[PERCPU_ALLOC_PERCPU_BYTES_ALLOC];
#endif
#ifdef PERCPU_ALLOC_PERCPU_CALL_SITE
    request.call_site = ctx->args[PERCPU_ALLOC_PERCPU_CALL_SITE];
#endif
    if (is_memory(request.address))
        record(ctx, &request);
}
TWO_PROGRAMS(percpu_alloc_percpu)

static __always_inline void on_percpu_free_percpu(struct bpf_raw_tracepoint_args *ctx) {
    release(ctx, SECTION_PERCPU, KERNEL_PERCPU_FREE, ctx->args[PERCPU_FREE_PERCPU_PTR]);
}
TWO_PROGRAMS(percpu_free_percpu)
#endif

#ifdef ALLOC_VMAP_AREA_PTR
/* Address ranges: those of vmalloc, with its guard page, and those of vmap and ioremap. */
static __always_inline void on_alloc_vmap_area(struct bpf_raw_tracepoint_args *ctx) {
    struct request request = {.address = ctx->args[ALLOC_VMAP_AREA_PTR],
                              .size = ctx->args[ALLOC_VMAP_AREA_BYTES_ALLOC],
                              .requested = ctx->args[ALLOC_VMAP_AREA_BYTES_ALLOC],
                              .section = SECTION_VMALLOC,
                              .function = KERNEL_VMALLOC};
    if (!(u32)ctx->args[ALLOC_VMAP_AREA_FAILED] && is_memory(request.address))
        record(ctx, &request);
}
TWO_PROGRAMS(alloc_vmap_area)

static __always_inline void on_free_vmap_area_noflush(struct bpf_raw_tracepoint_args *ctx) {
    release(ctx, SECTION_VMALLOC, KERNEL_VFREE, ctx->args[0]);
}
TWO_PROGRAMS(free_vmap_area_noflush)
#endif

/* --- kprobes --------------------------------------------------------------------------------- */

#ifdef WITH_KPROBES

/* The stack is read now: at the return of a probed function, kernels before 5.15 see no further
 * than the trampoline that return probes go through. */
static __always_inline void begin(struct pt_regs *ctx, struct request *request) {
    u64 sp = PT_REGS_SP(ctx);
    struct kernel_call call = {.start_ns = bpf_ktime_get_ns(),
                               .entry = PT_REGS_IP(ctx),
                               .size = request->size,
                               .requested = request->requested,
                               .section = request->section,
                               .function = request->function};

    if (filtered_out(request))
        return;
    struct scratch *scratch = enter_scratch();
    if (!scratch)
        return;
    int wanted = find_site(ctx, scratch, request, &call.stack_id);
    leave_scratch();
    if (!wanted || !calls.insert(&sp, &call))
        return;
    /* Either a tail call, which returns together with its caller, or a call whose return was not
     * seen: no function calls itself at its own stack pointer. */
    struct kernel_call *before = calls.lookup(&sp);
    if (before && before->entry == call.entry)
        lose(KERNEL_LOSS_MISSED_RETURNS, 1);
    calls.update(&sp, &call);
}

/* What kmalloc takes for a size: kmalloc-96 and -192 lie between the powers of two
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
    begin(ctx, &request);
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
    struct request request = {.size = read_half(cache + CACHE_SIZE_OFFSET),
                              .requested = read_half(cache + CACHE_OBJECT_SIZE_OFFSET),
                              .cache = cache,
                              .section = SECTION_SLAB,
                              .function = KERNEL_KMEM_CACHE_ALLOC};
    begin(ctx, &request);
    return 0;
}
#endif

int enter_percpu(struct pt_regs *ctx) {
    u64 size = PT_REGS_PARM1(ctx) * POSSIBLE_CPUS;
    struct request request = {.size = size,
                              .requested = size,
                              .section = SECTION_PERCPU,
                              .function = KERNEL_PERCPU_ALLOC};
    begin(ctx, &request);
    return 0;
}

int enter_vmalloc(struct pt_regs *ctx) {
    struct request request = {.size = PT_REGS_PARM1(ctx),
                              .requested = PT_REGS_PARM1(ctx),
                              .section = SECTION_VMALLOC,
                              .function = KERNEL_VMALLOC};
    begin(ctx, &request);
    return 0;
}

int return_from(struct pt_regs *ctx) {
    u64 sp = PT_REGS_SP(ctx) - RETURN_SP_DELTA;
    struct kernel_call *found = calls.lookup(&sp);

    /* Nothing: left out, under way when tracing began, or the second return of a tail call. */
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
 * (head, offset of the head in the block), or (NULL, pointer). The block is as good as freed. */
int free_by_rcu(struct pt_regs *ctx) {
    u64 head = PT_REGS_PARM1(ctx), second = PT_REGS_PARM2(ctx);

    release(ctx, SECTION_SLAB, KERNEL_KFREE_RCU, second < 4096 ? head - second : second);
    return 0;
}

#define MAX_BULK 64

/* One block of a batch. All state lies in memory, so that each looks to the verifier like the one
 * before it. */
static __always_inline void release_next(void *ctx, struct scratch *scratch) {
    u64 key = key_of(SECTION_SLAB, scratch->batch[scratch->count & (MAX_BULK - 1)]);
    struct kernel_allocation *recorded = allocations.lookup(&key);

    scratch->count++;
    if (recorded) {
        scratch->freed = *recorded;
        if (!allocations.delete(&key)) {
            count_freed(&scratch->freed, 0);
            trace(ctx, EVENT_RELEASE, KERNEL_FREE_BULK, key | 0xFULL << 60, scratch->freed.size,
                  scratch->freed.stack_id);
        }
    }
    asm volatile("" ::: "memory");
}

/* kmem_cache_free_bulk (cache, count, pointers). Without a cache it is kfree_bulk, in which
 * kfree_rcu ends: its blocks are many, and released already. */
int free_in_bulk(struct pt_regs *ctx) {
    u64 count = PT_REGS_PARM2(ctx);
    struct scratch *scratch = enter_scratch();

    if (!scratch)
        return 0;
    if (count > MAX_BULK && PT_REGS_PARM1(ctx))
        lose(KERNEL_LOSS_BULK_FREES, count - MAX_BULK);
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
