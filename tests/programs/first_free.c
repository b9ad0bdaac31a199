/* Consumers of blocks that the first thread has made: their first call of the allocator releases
 * one. A mapping of the program itself must be distinguished, and stays. With -DEARLY_CALL a hooked
 * function is called before any library's constructor. */
#include "scenario.h"
#include <pthread.h>
#include <sys/mman.h>

enum { THREADS = 8, MAPPED_BYTES = 5 << 20 };

static pthread_barrier_t together;

SCENARIO consume(void *block) {
    free(block);
}

SCENARIO scenario_map(void) {
    void *mapped =
        mmap(NULL, MAPPED_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED)
        _exit(71);
    KEEP(mapped);
}

#ifdef EARLY_CALL
static void call_early(void) {
    void *mapped = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    KEEP(mapped);
    munmap(mapped, 4096);
}

__attribute__((section(".preinit_array"), used)) static void (*early)(void) = call_early;
#endif

static void *consumer(void *block) {
    pthread_barrier_wait(&together);
    consume(block);
    pthread_barrier_wait(&together);
    pthread_barrier_wait(&together);
    return NULL;
}

int main(void) {
    pthread_t threads[THREADS];
    pthread_barrier_init(&together, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, consumer, malloc(100)) != 0)
            _exit(70);
    await_go();
    scenario_map();
    pthread_barrier_wait(&together);
    pthread_barrier_wait(&together);
    done_with_account(MAPPED_BYTES, 1);
    pthread_barrier_wait(&together);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
