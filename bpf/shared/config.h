/* The knobs of both modes, with their defaults. User space sets them with -D and never edits the
 * program text. Map capacities are not knobs: the text says CAPACITY_LATER, because the compiler
 * makes throwaway maps and user space makes the real ones (src/leaktrace/bpf/load.py). */

#define CAPACITY_LATER 1

#if defined(__x86_64__) || defined(__TARGET_ARCH_x86)
#define IS_X86_64 1
#else
#define IS_X86_64 0
#endif

/* Allocations outside these bounds (inclusive) are not recorded. */
#ifndef MIN_SIZE
#define MIN_SIZE 0
#endif
#ifndef MAX_SIZE
#define MAX_SIZE (~0ULL)
#endif

/* Record one allocation in this many, at random. */
#ifndef SAMPLE_RATE
#define SAMPLE_RATE 1
#endif

/* 1: send an event for every call. */
#ifndef TRACE
#define TRACE 0
#endif

/* 1: events go through BPF ring buffers (Linux 5.8); 0: through perf buffers. */
#ifndef USE_RING_BUFFER
#define USE_RING_BUFFER 1
#endif

/* What the stack pointer gains between a function's first instruction and its return. */
#if IS_X86_64
#define RETURN_SP_DELTA 8
#else
#define RETURN_SP_DELTA 0
#endif
