/* Three threads that allocate and release without pause, from before the tracer attaches until they
 * are stopped: attaching and detaching happen in the middle of calls. When it says "done",
 * everything has been released. */
#include "scenario.h"
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

enum { THREADS = 3, HELD = 64 };

static atomic_int stop;
static pthread_barrier_t together;

static void *work(void *argument) {
    void *held[HELD] = {NULL};
    size_t seed = (size_t)argument + 1;
    pthread_barrier_wait(&together);
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        void **slot = &held[(seed >> 33) % HELD];
        size_t size = 1 + (seed >> 40) % 3000;
        if (*slot != NULL && seed >> 62 == 0) {
            *slot = realloc(*slot, size);
            continue;
        }
        free(*slot);
        if (seed >> 62 == 1)
            *slot = calloc(opaque(1), size);
        else if (seed >> 62 != 2 || posix_memalign(slot, 64, size) != 0)
            *slot = malloc(size);
        if ((seed >> 50) % 256 == 0) {
            void *region = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            KEEP(region);
            munmap(region, 8192);
        }
    }
    for (size_t i = 0; i < HELD; i++)
        free(held[i]);
    pthread_barrier_wait(&together);
    pthread_barrier_wait(&together);
    return NULL;
}

int main(void) {
    pthread_t threads[THREADS];
    (void)!nice(19); /* inherited by the threads, so that they don't compete with the tracer */
    pthread_barrier_init(&together, NULL, THREADS + 1);
    for (size_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)i) != 0)
            _exit(70);
    pthread_barrier_wait(&together);
    await_go();
    atomic_store(&stop, 1);
    pthread_barrier_wait(&together);
    done();
    pthread_barrier_wait(&together);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
