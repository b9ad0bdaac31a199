/* What the kernel mode shares with user space. Plain C: tests/unit/abi/test_layouts.py compiles it
 * and compares every struct, enum and constant with src/leaktrace/abi/kernel.py. Sizes are in
 * bytes, times in nanoseconds of CLOCK_MONOTONIC. */
#ifndef LEAKTRACE_KERNEL_TYPES_H
#define LEAKTRACE_KERNEL_TYPES_H

#define CACHE_NAME_BYTES 32
#define LARGEST_SLAB_CLASS 8192 /* a larger kmalloc takes whole pages */
#define WANTED_CACHES 4096      /* capacities of the maps for --cache */
#define WANTED_SIZES 64

/* Which allocator a block comes from. Each has its own totals, which are never added up, because
 * the page allocator also provides the pages of slabs and of large kmallocs. */
enum section {
    SECTION_SLAB = 0,
    SECTION_PAGES = 1,
    SECTION_PERCPU = 2,
    SECTION_VMALLOC = 3,
    SECTIONS = 4,
};

/* The key of a record: the section in the upper bits, the address in the others. */
#define SECTION_SHIFT 60

/* The context that code runs in. */
enum context {
    CONTEXT_PROCESS = 0,
    CONTEXT_SOFTIRQ = 1,
    CONTEXT_IRQ = 2,
};

/* What an event comes from, as --trace shows it. */
enum kernel_function {
    KERNEL_KMALLOC = 1,
    KERNEL_KMEM_CACHE_ALLOC = 2,
    KERNEL_KFREE = 3,
    KERNEL_KMEM_CACHE_FREE = 4,
    KERNEL_PAGE_ALLOC = 5,
    KERNEL_PAGE_FREE = 6,
    KERNEL_PERCPU_ALLOC = 7,
    KERNEL_PERCPU_FREE = 8,
    KERNEL_VMALLOC = 9,
    KERNEL_VFREE = 10,
    KERNEL_KFREE_RCU = 11,
    KERNEL_FREE_BULK = 12,
};

/* An outstanding allocation. Its first fields are those of struct allocation. */
struct kernel_allocation {
    u64 size; /* the memory used: bytes_alloc */
    u64 time_ns;
    u64 stack_id;
    u64 requested;
};

/* A site is a stack and the cache it allocates from. Its first fields are those of struct site. */
struct kernel_site {
    u64 allocated_bytes;
    u64 allocated_count;
    u64 freed_bytes;
    u64 freed_count;
    u32 generation;
    u8 end;
    u8 is_region;
    u16 owner;
    u64 allocated_requested;
    u64 freed_requested;
    u64 unseen_frees; /* blocks whose address was allocated again while they were recorded */
    u16 section;
    u16 context;
    u32 object_size;              /* of a kmalloc: its size class; otherwise 0 */
    char cache[CACHE_NAME_BYTES]; /* empty: kmalloc, or the kernel doesn't give the name */
};

/* Leaf first. The first `skipped` frames belong to the probe and the allocator. One entry more than
 * MAX_FRAMES, so that a mask can bound an index. */
#define STACK_PLACES 128
struct kernel_stack {
    u16 frame_count;
    u16 skipped;
    u16 end;
    u16 context;
    u64 pc[STACK_PLACES];
};

/* Everything that can be lost has a counter. */
enum loss {
    LOSS_ALLOCATIONS = 0,
    LOSS_ALLOCATION_BYTES = 1,
    LOSS_STACKS = 2,
    LOSS_SITES = 3,
    LOSS_UNSEEN_FREES = 4,
    LOSS_FAILED_STACKS = 5,
    LOSS_TRUNCATED_STACKS = 6,
    LOSS_NESTED = 7, /* more nested interrupts than there are stack buffers */
    LOSS_EVENTS = 8,
    LOSS_MISSED_RETURNS = 9, /* kprobes: a call whose return probe did not fire */
    LOSS_RELEASES = 10,      /* a record that could not be removed from the busy map */
    LOSS_BULK_FREES = 11,    /* blocks of one kmem_cache_free_bulk beyond those that are read */
    LOSS_MADE_UP_FOR = 12,   /* not a loss: a second program ran instead of a skipped one */
    LOSS_KINDS = 13,
};

/* What differs from run to run. Not knobs, so that the compiled program can be reused. */
struct settings {
    u32 own_tgid;  /* leaktrace itself, whose allocations are ignored; 0: nothing is ignored */
    u32 task_tgid; /* with ONE_TASK */
};

#endif
