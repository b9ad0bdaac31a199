/* Four threads that allocate, resize and free without pause, also each other's blocks, under a
 * timer that interrupts them all, until they are stopped; then it prints its own account of what is
 * live. */
#include "scenario.h"
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/time.h>

enum { THREADS = 4, OWN = 1024, SHARED = 256 };

/* A block contains its size in its first bytes. */
struct block {
    size_t size;
};

static atomic_int stopped;
static volatile sig_atomic_t interrupts;
static struct block *own[THREADS][OWN];
static _Atomic(struct block *) shared[SHARED];
static pthread_barrier_t together;

static void on_alarm(int number) {
    interrupts += number != 0;
}

static uint64_t next(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static struct block *sized(void *memory, size_t size) {
    struct block *block = memory;
    if (block == NULL)
        _exit(71);
    block->size = size;
    return block;
}

static struct block *any(uint64_t dice, size_t size) {
    switch (dice % 5) {
    case 0:
        return sized(calloc(opaque(1), size), size);
    case 1:
        return sized(memalign(64, size), size);
    default:
        return sized(malloc(size), size);
    }
}

static void *work(void *argument) {
    size_t me = (size_t)argument;
    uint64_t state = 88172645463325252u + me * 7919;
    pthread_barrier_wait(&together);
    while (!stopped) {
        uint64_t dice = next(&state);
        struct block **slot = &own[me][(dice >> 8) % OWN];
        size_t size = sizeof(struct block) + (dice >> 24) % 900;
        if ((dice >> 40) % 1024 == 0)
            size += 200000; /* now and then by mmap */
        if (*slot == NULL) {
            *slot = any(dice, size);
        } else if (dice % 4 == 0) {
            *slot = sized(realloc(*slot, size), size);
        } else if (dice % 4 == 1) {
            *slot = atomic_exchange(&shared[(dice >> 50) % SHARED], *slot);
        } else {
            free(*slot);
            *slot = NULL;
        }
        if (dice % 64 == 0)
            usleep(5000); /* a pause, because this may run for an hour */
    }
    pthread_barrier_wait(&together);
    pthread_barrier_wait(&together);
    return NULL;
}

static void add(struct block *block, unsigned long long *bytes, unsigned long long *count) {
    if (block != NULL) {
        *bytes += block->size;
        *count += 1;
    }
}

int main(void) {
    pthread_t threads[THREADS];
    unsigned long long bytes = 0, count = 0;
    struct itimerval often = {{0, 2000}, {0, 2000}};
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    pthread_barrier_init(&together, NULL, THREADS + 1);
    for (size_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)i) != 0)
            _exit(70);
    await_go();
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    pthread_barrier_wait(&together);
    say("working\n");
    await_line();
    stopped = 1;
    pthread_barrier_wait(&together);
    for (size_t i = 0; i < THREADS; i++)
        for (size_t slot = 0; slot < OWN; slot++)
            add(own[i][slot], &bytes, &count);
    for (size_t slot = 0; slot < SHARED; slot++)
        add(shared[slot], &bytes, &count);
    done_with_account(bytes, count);
    pthread_barrier_wait(&together);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    return interrupts > 0 ? 0 : 74;
}
