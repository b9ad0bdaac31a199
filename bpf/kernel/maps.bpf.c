/* Kernel mode: allocations that the kernel makes. Its maps, and what happens when one is full.
 *
 * All maps are allocated when they are loaded: a tracer of the allocator should not call it. */

BPF_ARRAY(settings, struct settings, 1);

/* section and address -> allocation. Full: the allocation is counted as lost, with its bytes. */
BPF_F_TABLE("hash", u64, struct kernel_allocation, allocations, CAPACITY_LATER, 0);
typedef struct kernel_allocation record_type;

/* stack id -> counters. Full: the allocation is still recorded, its site has no totals. */
BPF_F_TABLE("hash", u64, struct kernel_site, sites, CAPACITY_LATER, 0);

/* stack id -> frames, written once. Full: the site is reported without its stack. */
BPF_F_TABLE("hash", u64, struct kernel_stack, stacks, CAPACITY_LATER, 0);
typedef struct kernel_stack stack_type;

/* With CACHES_FILTERED: which allocations are recorded. */
struct cache_name {
    char text[CACHE_NAME_BYTES];
};
BPF_F_TABLE("hash", struct cache_name, u8, wanted_caches, WANTED_CACHES, 0);
BPF_F_TABLE("hash", u64, u8, wanted_sizes, WANTED_SIZES, 0);

/* Buffers of a program that is running. Programs on one CPU nest (an interrupt's in a task's), and
 * each needs its own. Deeper nesting than this is skipped and counted. */
#define MAX_NESTING 4
#define MAX_BULK 64
struct scratch {
    struct kernel_stack stack;
    struct kernel_site site;
    u64 hash;
    u64 call_site;
    u64 count;
    u64 batch[MAX_BULK]; /* blocks that are freed together */
    struct kernel_allocation freed;
};
BPF_PERCPU_ARRAY(scratches, struct scratch, MAX_NESTING);
BPF_PERCPU_ARRAY(nesting, u32, 1);

/* Releases of blocks that were allocated before tracing began, by section. */
BPF_PERCPU_ARRAY(older_releases, u64, SECTIONS);

/* Of all events. */
#define THE_KERNEL ((struct origin){})

/* The buffers of the running program; NULL, and counted, if none are left. An interrupt between
 * reading and writing the depth leaves it unchanged. */
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
