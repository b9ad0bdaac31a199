/* Two million random malloc, calloc, realloc and free by four threads, which also free each
 * other's blocks; the program keeps its own account of what is live. The seed is fixed, but the
 * threads race: the account is right for any order of events. */
#include "scenario.h"
#include <pthread.h>
#include <stdatomic.h>

enum { THREADS = 4, OPERATIONS = 500000, OWN = 4096, SHARED = 1024 };

/* A block contains its size in its first bytes. */
struct block {
    size_t size;
};

static pthread_barrier_t together;
static struct block *own[THREADS][OWN];
static _Atomic(struct block *) shared[SHARED];

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

static void *work(void *argument) {
    size_t me = (size_t)argument;
    uint64_t state = 88172645463325252u + me * 7919;
    pthread_barrier_wait(&together);
    for (int i = 0; i < OPERATIONS; i++) {
        uint64_t dice = next(&state);
        struct block **slot = &own[me][(dice >> 8) % OWN];
        size_t size = sizeof(struct block) + (dice >> 24) % 600;
        if ((dice >> 40) % 1024 == 0)
            size += 200000; /* now and then by mmap */
        if (*slot == NULL) {
            *slot = sized(dice & 1 ? malloc(size) : calloc(opaque(1), size), size);
        } else if (dice % 4 == 0) {
            *slot = sized(realloc(*slot, size), size);
        } else if (dice % 4 == 1) {
            *slot = atomic_exchange(&shared[(dice >> 50) % SHARED], *slot);
        } else {
            free(*slot);
            *slot = NULL;
        }
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
    pthread_barrier_init(&together, NULL, THREADS + 1);
    for (size_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)i) != 0)
            _exit(70);
    await_go();
    pthread_barrier_wait(&together);
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
    return 0;
}
