/* The knobs of the kernel mode, with their defaults. See also shared/config.h. What user space
 * knows about the running kernel comes as knobs, too; those that say where a tracepoint has its
 * arguments are explained in tracepoints.bpf.c and have no default. */

/* 1: only what one process allocates in its own context, `task_tgid` of the settings. */
#ifndef ONE_TASK
#define ONE_TASK 0
#endif

/* Which contexts are recorded: a bit for each value of enum context. */
#ifndef CONTEXTS
#define CONTEXTS 7
#endif

/* 1: only the caches in the map `wanted_caches`, and the kmalloc sizes in `wanted_sizes`. */
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

/* Code at which a stack ends: the entries of interrupts, which run on top of any other stack, and
 * those of system calls and threads. An empty range if the kernel hides its addresses. */
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

/* How many frames bpf_get_stack returns at most: sysctl kernel.perf_event_max_stack. */
#ifndef STACK_LIMIT
#define STACK_LIMIT MAX_FRAMES
#endif

#ifndef PAGE_BYTES
#define PAGE_BYTES 4096ULL
#endif
#ifndef POSSIBLE_CPUS
#define POSSIBLE_CPUS 1
#endif

/* 1: the programs for kprobes instead of tracepoints are compiled, too. */
#ifndef WITH_KPROBES
#define WITH_KPROBES 0
#endif
