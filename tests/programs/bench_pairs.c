/*
 * malloc+free pairs from a stack of a given depth, to measure the cost of tracing per pair.
 *
 *   bench_pairs FRAMES
 *
 * FRAMES counts all frames of the stack, from the caller of malloc to _start: at least 6. For each
 * line "PAIRS BATCHES" it makes BATCHES batches of PAIRS pairs and answers "done", followed by the
 * processor time that the thread spent on each batch, in nanoseconds. Processor time, because it
 * excludes other processes on the core and includes traps and probes.
 */
#include "scenario.h"

#include <time.h>

enum { MOST_BATCHES = 1000, FRAMES_AROUND = 6 /* pair, run, main and three of libc */ };

static unsigned long long batch_ns[MOST_BATCHES];
static char answer[MOST_BATCHES * 21 + 16];

static unsigned long long processor_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (unsigned long long)time.tv_sec * 1000000000 + (unsigned long long)time.tv_nsec;
}

static SCENARIO pair(void) {
    void *block = malloc(100);
    KEEP(block);
    free(block);
}

static SCENARIO run(long frames_left, long pairs, long batches) {
    if (frames_left > 0) {
        run(frames_left - 1, pairs, batches);
        KEEP(batches); /* otherwise the call would be a jump, without a frame */
        return;
    }
    for (long batch = 0; batch < batches; batch++) {
        unsigned long long before = processor_ns();
        for (long i = 0; i < pairs; i++)
            pair();
        batch_ns[batch] = processor_ns() - before;
    }
}

int main(int argc, char **argv) {
    char line[64], *rest;
    long frames = argc > 1 ? atol(argv[1]) : FRAMES_AROUND;
    if (frames < FRAMES_AROUND)
        return 2;

    say("ready\n");
    while (read_line(line, sizeof line)) {
        long pairs = strtol(line, &rest, 10), batches = strtol(rest, 0, 10);
        if (pairs < 1 || batches < 1 || batches > MOST_BATCHES)
            return 2;
        run(frames - FRAMES_AROUND, pairs, batches);

        char *end = answer;
        memcpy(end, "done", 4);
        end += 4;
        for (long batch = 0; batch < batches; batch++) {
            *end++ = ' ';
            end = put_number(end, batch_ns[batch]);
        }
        *end++ = '\n';
        *end = '\0';
        say(answer);
    }
    return 0;
}
