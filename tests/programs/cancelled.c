/* Threads end in the middle of what they do with memory:
 *
 *   deferred      cancelled at a cancellation point: with OWN_MALLOC one inside malloc, calloc,
 *                 realloc and free; otherwise between calls
 *   asynchronous  cancelled at any instruction (with OWN_MALLOC, which survives that)
 *   exits         pthread_exit in the middle of malloc, calloc, realloc and free (OWN_MALLOC)
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#ifdef OWN_MALLOC
#include "own_malloc.h"
#else
#include "scenario.h"
#endif

enum { ROUNDS = 6, THREADS = 4, CALLS = 200 };

static enum { DEFERRED, ASYNCHRONOUS, EXITS } mode;
static int nowhere;
static _Thread_local int countdown;
static int calls[THREADS];

#ifdef OWN_MALLOC
static void inside(void) {
    if (!is_wasteful) /* not one of the workers */
        return;
    if (mode == DEFERRED) {
        if (write(nowhere, "", 1) != 1) /* a cancellation point */
            _exit(74);
    } else if (mode == EXITS && --countdown == 0) {
        is_wasteful = 0;
        pthread_exit(PTHREAD_CANCELED);
    }
}
#endif

static void *work(void *argument) {
    size_t me = (size_t)argument;
    int before;
    if (mode == ASYNCHRONOUS)
        pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &before);
    countdown = CALLS + (int)me; /* each thread leaves another function */
#ifdef OWN_MALLOC
    is_wasteful = 1;
#endif
    for (;;) {
        void *block = malloc(100);
        KEEP(block);
        block = realloc(block, 1000);
        KEEP(block);
        free(block);
        block = calloc(opaque(10), 20);
        KEEP(block);
        free(block);
        __atomic_fetch_add(&calls[me], 5, __ATOMIC_RELAXED);
        if (mode == DEFERRED)
            pthread_testcancel();
    }
    return NULL;
}

static unsigned long long round_of_threads(void) {
    pthread_t threads[THREADS];
    unsigned long long ended = 0;
    memset(calls, 0, sizeof calls);
    for (size_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)i) != 0)
            _exit(70);
    for (size_t i = 0; i < THREADS; i++) {
        void *result = NULL;
        if (mode != EXITS) {
            while (__atomic_load_n(&calls[i], __ATOMIC_RELAXED) < CALLS)
                sched_yield();
            pthread_cancel(threads[i]);
        }
        pthread_join(threads[i], &result);
        ended += result == PTHREAD_CANCELED;
    }
    return ended;
}

SCENARIO scenario(void) {
    for (size_t i = 0; i < opaque(100); i++)
        KEEP(malloc(300));
}

int main(int argc, char **argv) {
    unsigned long long ended = 0;
    if (argc < 2)
        return 64;
    mode = strcmp(argv[1], "deferred") == 0 ? DEFERRED
           : strcmp(argv[1], "exits") == 0  ? EXITS
                                            : ASYNCHRONOUS;
    nowhere = open("/dev/null", O_WRONLY);
    await_go();
    for (int i = 0; i < ROUNDS; i++)
        ended += round_of_threads();
    tell("ended", ended);
    scenario();
    account(30000, 100);
    done();
    return 3;
}
