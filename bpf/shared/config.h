/* Every knob of the program, with its default. User space sets them with -D; the text of the
 * program is never edited. How much a map holds is no knob, and CAPACITY_LATER in the text: the
 * compiler makes maps of its own, and user space those that are used (src/leaktrace/bpf/load.py).
 */

#define CAPACITY_LATER 1

#if defined(__x86_64__) || defined(__TARGET_ARCH_x86)
#define WORDS_OF_X86_64 1
#else
#define WORDS_OF_X86_64 0
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

/* 1: events go through BPF ring buffers (Linux 5.8); 0: through perf buffers.
 */
#ifndef USE_RING_BUFFER
#define USE_RING_BUFFER 1
#endif

/* What the stack pointer gains between a function's first instruction and its
 * return. */
#if WORDS_OF_X86_64
#define RETURN_SP_DELTA 8
#else
#define RETURN_SP_DELTA 0
#endif
