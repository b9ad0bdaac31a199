/* Kernel mode: allocations of the kernel itself.
 *
 * Raw tracepoints carry size and pointer in one event, so nothing has to be remembered between an
 * entry and a return. Kprobes do need that: a call is remembered under its stack pointer, which no
 * two calls that are under way at a time can share, whichever task, idle loop or interrupt they
 * belong to. What user space knows of the running kernel (arguments of its tracepoints, offsets of
 * struct kmem_cache, addresses of its interrupt entries) comes as -D knobs. */

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

/* Releases of blocks that were allocated before tracing began, by section. */
BPF_PERCPU_ARRAY(older_releases, u64, 4);

#if TRACE
#if USE_RING_BUFFER
BPF_RINGBUF_OUTPUT(trace_events, CAPACITY_LATER);
#else
BPF_PERF_OUTPUT(trace_events);
#endif
#endif

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
        lose(LOSS_NESTED, 1);
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
        lose(LOSS_EVENTS, 1);
}
#else
#define trace(...)
#endif
