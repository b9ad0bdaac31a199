/* What the kernel mode's program stores and user space reads. Plain C, compared field by field with
 * src/leaktrace/abi/kernel.py by a test. Sizes are bytes, times nanoseconds of CLOCK_MONOTONIC. */
#ifndef LEAKTRACE_KERNEL_H
#define LEAKTRACE_KERNEL_H

#define CACHE_NAME_BYTES 32
#define LARGEST_SLAB_CLASS 8192 /* what kmalloc takes beyond it are whole pages */

/* Who hands the memory out. Each has its own key space: the page allocator sees the pages of slabs
 * and of large kmallocs too, so that its figures are never added to theirs. */
enum section {
    SECTION_SLAB = 0,
    SECTION_PAGES = 1,
    SECTION_PERCPU = 2,
    SECTION_VMALLOC = 3,
};

/* On whose behalf code runs. */
enum context {
    CONTEXT_PROCESS = 0,
    CONTEXT_SOFTIRQ = 1,
    CONTEXT_IRQ = 2,
};

/* Events by their source, as --trace shows them. */
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

/* An outstanding allocation. */
struct kernel_allocation {
    u64 size; /* what it takes up: bytes_alloc */
    u64 time_ns;
    u64 stack_id;
    u64 requested;
};

/* A site is a stack together with the cache it allocates from. Begins like struct site. */
struct kernel_site {
    u64 allocated_bytes;
    u64 allocated_count;
    u64 freed_bytes;
    u64 freed_count;
    u32 generation;
    u16 end;
    u16 is_region;
    u64 allocated_requested;
    u64 freed_requested;
    u64 unseen_frees; /* blocks whose address was handed out again while they were recorded */
    u16 section;
    u16 context;
    u32 object_size;              /* of a kmalloc: its size class; 0 otherwise */
    char cache[CACHE_NAME_BYTES]; /* empty: kmalloc, or not told by this kernel */
};

/* Leaf first. The first `skipped` frames are the probe's and the allocator's. One place more than
 * MAX_FRAMES, so that an index can be bounded by a mask. */
struct kernel_stack {
    u16 frame_count;
    u16 skipped;
    u16 end;
    u16 context;
    u64 pc[128];
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
    LOSS_NESTED = 7, /* more interrupts within each other than there are stack buffers */
    LOSS_EVENTS = 8,
    LOSS_MISSED_RETURNS = 9, /* kprobes: a call whose return probe did not fire */
    LOSS_RELEASES = 10,      /* a record that could not be taken out of the busy map */
    LOSS_BULK_FREES = 11,    /* blocks beyond what is read of one kmem_cache_free_bulk */
    LOSS_MADE_UP_FOR = 12,   /* no loss: a second program ran in place of a skipped one */
    LOSS_KINDS = 13,
};

/* What differs from run to run: not knobs, so that the compiled program can be used again. */
struct settings {
    u32 own_tgid;  /* leaktrace's own process: what it allocates is left out. 0: nothing is. */
    u32 task_tgid; /* with ONE_TASK */
};

#endif
