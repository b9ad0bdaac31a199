/*
 * Much memory that is full of pointers, to measure how long it takes to find what is lost in it.
 *
 *   bench_lost BLOCKS MIB
 *
 * Prints "ready", waits for a line, then allocates BLOCKS blocks of MIB in all, each with a pointer
 * to the one before and one to another, and forgets every 50th. Prints "done". From then on a
 * thread follows pointers, and for each further line, "done" and how many it has followed so far is
 * printed.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct block {
    struct block *before, *other;
    uint64_t words[];
};

#define EACH_LOST 50

static struct block *last;
static volatile uint64_t followed;

static uint64_t next_random(void) {
    static uint64_t state = 88172645463325252ull;

    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static void wait_for_line(void) {
    int byte;

    while ((byte = getchar()) != '\n')
        if (byte == EOF)
            exit(0);
}

static void *follow(void *unused) {
    struct block *at = last;

    for (uint64_t steps = 0;; steps++) {
        at = at->other ? at->other : last;
        if (steps % 1024 == 0)
            followed = steps;
    }
    return unused;
}

__attribute__((noinline)) static struct block *make(size_t size) {
    struct block *block = calloc(1, size);

    for (size_t i = 0; i < (size - sizeof *block) / 8; i++)
        block->words[i] = next_random() | 1ull << 63; /* no address */
    return block;
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    size_t blocks = strtoul(argv[1], NULL, 10);
    size_t mean = strtoul(argv[2], NULL, 10) * 1024 * 1024 / blocks;
    struct block **some = malloc(sizeof *some * 1024); /* a choice to point to */
    pthread_t thread;

    setvbuf(stdout, NULL, _IONBF, 0);
    puts("ready");
    wait_for_line();
    for (size_t i = 0; i < blocks; i++) {
        struct block *block = make(sizeof *block + next_random() % (2 * mean - sizeof *block));

        if (i % EACH_LOST == 1)
            continue;
        block->before = last;
        block->other = i > 1024 ? some[next_random() % 1024] : last;
        some[i % 1024] = last = block;
    }
    free(some);
    if (pthread_create(&thread, NULL, follow, NULL))
        return 1;
    puts("done");
    for (;;) {
        wait_for_line();
        printf("done %llu\n", (unsigned long long)followed);
    }
}
