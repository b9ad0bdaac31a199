/* What is allocated once and kept, and threads. */
#include "case.h"

ALLOCATES(keep_here)
ALLOCATES(first_use_here)
ALLOCATES(thread_buffer_here)

/* The configuration is read at the start. */
CASE(startup) {
    while (tick()) {
        if (ticks() == 0)
            for (int i = 0; i < 3000; i++)
                keep_here(90);
        settles_at(50);
    }
}

/* Reading the data takes the first hundred ticks. */
CASE(long_startup) {
    while (tick()) {
        if (ticks() < 100)
            for (int i = 0; i < 20; i++)
                keep_here(90);
        settles_at(250);
    }
}

/* What each kind of request needs is made when it comes for the first time. */
CASE(lazy_initialization) {
    enum { KINDS = 20 };
    static void *made[KINDS];
    while (tick()) {
        long kind = below(KINDS);
        if (made[kind] == NULL)
            made[kind] = first_use_here(2000);
        settles_at(250);
    }
}

/* One block from the start, used for all of the run, at a site that frees all the others soon. */
CASE(one_block_kept) {
    while (tick()) {
        void *block = keep_here(256);
        if (ticks() > 3)
            free_after(block, below(5));
    }
}

/* One large block that is first needed in the middle of the trace, and then kept. */
CASE(one_block_late) {
    while (tick()) {
        if (ticks() == 300)
            keep_here(200000);
        settles_at(350);
    }
}

static void *short_work(void *unused) {
    void *buffer = thread_buffer_here(3000);
    free(buffer);
    return unused;
}

/* Threads that end soon, and are joined. */
CASE(thread_churn) {
    while (tick()) {
        pthread_t thread;
        if (ticks() % 4 != 0)
            continue;
        if (pthread_create(&thread, NULL, short_work, NULL) != 0)
            _exit(73);
        pthread_join(thread, NULL);
    }
}

enum { WORKERS = 8, CACHED = 20 };

struct worker {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    long todo;
    bool ends;
};

/* Each item of work fills a place of the thread's own cache. The cache is freed with the thread. */
static void *work_with_cache(void *argument) {
    struct worker *worker = argument;
    void *cache[CACHED] = {NULL};
    long used = 0;
    pthread_mutex_lock(&worker->mutex);
    while (!worker->ends) {
        while (worker->todo > 0) {
            void **place = &cache[used++ % CACHED];
            worker->todo--;
            free(*place);
            *place = thread_buffer_here(500);
        }
        pthread_cond_wait(&worker->wake, &worker->mutex);
    }
    pthread_mutex_unlock(&worker->mutex);
    for (int i = 0; i < CACHED; i++)
        free(cache[i]);
    return NULL;
}

static void start(struct worker *worker) {
    pthread_mutex_init(&worker->mutex, NULL);
    pthread_cond_init(&worker->wake, NULL);
    worker->todo = 0;
    worker->ends = false;
    if (pthread_create(&worker->thread, NULL, work_with_cache, worker) != 0)
        _exit(73);
}

static void tell(struct worker *worker, bool ends) {
    pthread_mutex_lock(&worker->mutex);
    worker->todo++;
    worker->ends = ends;
    pthread_cond_signal(&worker->wake);
    pthread_mutex_unlock(&worker->mutex);
}

/* Eight threads with caches of their own. From time to time one ends, and another one starts. */
CASE(thread_caches) {
    static struct worker workers[WORKERS];
    while (tick()) {
        if (ticks() == 0)
            for (int i = 0; i < WORKERS; i++)
                start(&workers[i]);
        tell(&workers[below(WORKERS)], false);
        if (ticks() % 25 == 24) {
            struct worker *oldest = &workers[ticks() / 25 % WORKERS];
            tell(oldest, true);
            pthread_join(oldest->thread, NULL);
            start(oldest);
        }
        settles_at(300);
    }
}
