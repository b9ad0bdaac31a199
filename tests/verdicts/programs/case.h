/* What the cases of the corpus share: time in ticks, chance from a seed, and an account of what is
 * leaked, which is the truth that leaktrace's verdicts are compared with.
 *
 *   verdict_case NAME [TICK_US [SEED [WARM_TICKS]]]
 *
 * A case is a function that works while tick() returns true. It ends when its standard input or its
 * time does. The first WARM_TICKS ticks pass at once; then it says "ready" and waits for a line if
 * VERDICT_WAIT is set. So a tracer can be attached to a program that has worked for long.
 *
 * VERDICT_ACCOUNT names a file to which lines are appended, with times of CLOCK_MONOTONIC:
 *
 *   TIME_NS leaked COUNT BYTES   so much is leaked now, since the beginning of the trace
 *   TIME_NS mark NAME            from now on, what NAME says is true (see mark())
 */
#ifndef CASE_H
#define CASE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif

struct verdict_case {
    const char *name;
    void (*run)(void);
    struct verdict_case *next;
};

void add_case(struct verdict_case *one);

/* Defines a case: CASE(name) { … } */
#define CASE(case_name)                                                                            \
    static void case_##case_name(void);                                                            \
    __attribute__((constructor)) static void add_##case_name(void) {                               \
        static struct verdict_case one = {#case_name, case_##case_name, NULL};                     \
        add_case(&one);                                                                            \
    }                                                                                              \
    static void case_##case_name(void)

/* A function whose name is found in the reported stacks: it has a frame and no clones. */
#define NAMED __attribute__((noinline, noclone))

/* Defines a function that allocates, and touches what it returns. The work after the call keeps
 * the compiler from making it a jump. */
#define ALLOCATES(name)                                                                            \
    static NAMED void *name(size_t size) {                                                         \
        void *block = malloc(size);                                                                \
        if (block == NULL)                                                                         \
            _exit(71);                                                                             \
        memset(block, 1, size);                                                                    \
        return block;                                                                              \
    }

/* Waits for the next tick. False at the end. Also does the work of a server that every case has in
 * the background, and releases what is due. */
bool tick(void);

/* The number of the tick, from 0 at the first one. Those of the warm-up count. */
long ticks(void);

/* Before the first tick: no work in the background. */
void be_quiet(void);

/* Frees the block, of 16 bytes or more, so many ticks from now (at most 8000). */
void free_after(void *block, long wait_ticks);

/* Something is lost for good, or kept for good without use. May be called from any thread. */
void leaked(size_t bytes);

/* "settled": from now on nothing grows, and that can be known. "full": a bound is reached.
 * "stopped": the leak has ended. */
void mark(const char *name);

/* Where the first line is written at: says "settled" at this tick, if it is that tick. */
void settles_at(long tick_number);

uint64_t chance_bits(void);
bool chance(double probability);
long below(long bound); /* from 0 to bound - 1 */
long exponential(double mean);

/* In a child of fork(): end with the parent. */
void end_with_parent(void);

#ifdef __cplusplus
}
#endif

#endif
