/* Eight threads allocate at once, then each frees every second block of its neighbour: blocks
 * cross threads, and every thread has its own open call. */
#include "scenario.h"
#include <pthread.h>

enum { THREADS = 8, BLOCKS = 1000 };

static pthread_barrier_t together;
static void *blocks[THREADS][BLOCKS];

static void *work(void *argument) {
    size_t me = (size_t)argument;
    pthread_barrier_wait(&together);
    for (size_t i = 0; i < BLOCKS; i++)
        blocks[me][i] = malloc(100 + me);
    pthread_barrier_wait(&together);
    size_t neighbour = (me + 1) % THREADS;
    for (size_t i = 0; i < BLOCKS; i += 2)
        free(blocks[neighbour][i]);
    pthread_barrier_wait(&together);
    pthread_barrier_wait(&together);
    return NULL;
}

int main(void) {
    pthread_t threads[THREADS];
    pthread_barrier_init(&together, NULL, THREADS + 1);
    for (size_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)i) != 0)
            _exit(70);
    await_go();
    for (int step = 0; step < 3; step++)
        pthread_barrier_wait(&together);
    done();
    pthread_barrier_wait(&together);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
