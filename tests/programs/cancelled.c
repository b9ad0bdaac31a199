/* Threads end in the middle of operations on memory:
 *
 *   deferred      cancelled at a cancellation point: with OWN_MALLOC one inside malloc, calloc,
 *                 realloc and free; otherwise between calls
 *   asynchronous  cancelled at any instruction (with OWN_MALLOC, which survives that)
 *   exits         pthread_exit in the middle of malloc, calloc, realloc and free (OWN_MALLOC)
 *
 * With -fexceptions the unwinder finds what the threads have to clean up.
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
static unsigned long long cleaned_up;

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

/* Declared as functions that may be left: the C library's header says that they never are. */
static void *(*volatile malloc_here)(size_t) = malloc;
static void *(*volatile calloc_here)(size_t, size_t) = calloc;
static void *(*volatile realloc_here)(void *, size_t) = realloc;
static void (*volatile free_here)(void *) = free;

static void clean_up(void *unused) {
    (void)unused;
    __atomic_fetch_add(&cleaned_up, 1, __ATOMIC_RELAXED);
}

static void *work(void *argument) {
    size_t me = (size_t)argument;
    int before;
    if (mode == ASYNCHRONOUS)
        pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &before);
    countdown = CALLS + (int)me; /* each thread leaves a different function */
#ifdef OWN_MALLOC
    is_wasteful = 1;
#endif
    pthread_cleanup_push(clean_up, NULL);
    for (;;) {
        void *block = realloc_here(malloc_here(100), 1000);
        free_here(block);
        free_here(calloc_here(10, 20));
        __atomic_fetch_add(&calls[me], 5, __ATOMIC_RELAXED);
        if (mode == DEFERRED)
            pthread_testcancel();
        sched_yield();
    }
    pthread_cleanup_pop(0);
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
    print_result("ended", ended);
    if (mode != ASYNCHRONOUS) /* the compiler expects no end between calls */
        print_result("cleaned up", cleaned_up);
    scenario();
    account(30000, 100);
    done();
    return 3;
}
