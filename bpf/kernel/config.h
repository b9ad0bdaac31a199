/* Every knob of the kernel mode, with its default. */

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
