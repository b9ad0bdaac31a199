/* Mapped regions of which parts are touched, stacks of threads, and what a C library maps for
 * itself. The target says itself what is resident, by mincore(2).
 *
 *   touch          64 MiB, of which 3 MiB are written to: "done RESIDENT_BYTES"
 *   read           1 MiB that is only read: "done"
 *   map N          N MiB that are never touched
 *   threads N      threads that wait; each has used 64 KiB of its stack
 *   join           they end, and are joined
 *   abandon N      threads that end, and that nobody joins
 *   free N         threads whose first call of the allocator is free, and that wait
 *   care           a thread that looks after the heap
 *   handlers       a fork whose handler maps 5 MiB; a thread whose destructor maps 3 MiB
 */
#include "scenario.h"
#include <malloc.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum { MIB = 1 << 20, MOST_THREADS = 64, STACK_BYTES = 64 << 10 };

static pthread_t threads[MOST_THREADS];
static int thread_count;
static pthread_barrier_t started;
static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;

static void check(int is_right, int status) {
    if (!is_right)
        _exit(status);
}

static char *map(size_t size) {
    char *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(mapped != MAP_FAILED, 80);
    KEEP(mapped);
    return mapped;
}

/* --- pages ------------------------------------------------------------------------------------ */

static size_t resident(char *memory, size_t size) {
    static unsigned char pages[64 * MIB / 4096];
    size_t count = 0;
    check(size <= 64 * MIB && mincore(memory, size, pages) == 0, 81);
    for (size_t i = 0; i < size / 4096; i++)
        count += pages[i] & 1;
    return count * 4096;
}

SCENARIO touch_some(void) {
    char *memory = map(64 * MIB);
    for (size_t at = 0; at < MIB; at += 4096) {
        memory[at] = 1;
        memory[30 * MIB + at] = 1;
        memory[63 * MIB + at] = 1;
    }
    char line[80] = "done ";
    char *end = put_number(line + 5, resident(memory, 64 * MIB));
    strcpy(end, "\n");
    say(line);
}

SCENARIO only_read(void) {
    volatile char *memory = map(MIB);
    madvise((char *)memory, MIB, MADV_NOHUGEPAGE);
    for (size_t at = 0; at < MIB; at += 4096)
        (void)memory[at];
    say("done\n");
}

SCENARIO never_touch(size_t mib) {
    map(mib * MIB);
    say("done\n");
}

/* --- threads ---------------------------------------------------------------------------------- */

static void *waiting(void *unused) {
    char used[STACK_BYTES];
    (void)unused;
    memset(used, 1, sizeof used);
    KEEP(used);
    pthread_barrier_wait(&started);
    pthread_mutex_lock(&held);
    pthread_mutex_unlock(&held);
    return NULL;
}

static void *ending(void *unused) {
    return unused;
}

static void *freeing(void *block) {
    free(block);
    pthread_barrier_wait(&started);
    pthread_mutex_lock(&held);
    pthread_mutex_unlock(&held);
    return NULL;
}

SCENARIO start(int count, void *(*run)(void *), int gets_block) {
    pthread_barrier_init(&started, NULL, (unsigned)count + 1);
    if (thread_count == 0)
        pthread_mutex_lock(&held);
    for (int i = 0; i < count; i++) {
        void *block = gets_block ? malloc(100) : NULL;
        check(pthread_create(&threads[thread_count++], NULL, run, block) == 0, 82);
    }
    pthread_barrier_wait(&started);
    say("done\n");
}

SCENARIO join(void) {
    pthread_mutex_unlock(&held);
    while (thread_count > 0)
        check(pthread_join(threads[--thread_count], NULL) == 0, 83);
    say("done\n");
}

SCENARIO abandon(int count) {
    pthread_t thread;
    for (int i = 0; i < count; i++)
        check(pthread_create(&thread, NULL, ending, NULL) == 0, 84);
    say("done\n");
}

/* --- what the library does for itself, and what the program does then ------------------------- */

static void *caring(void *unused) {
#ifdef __GLIBC__
    malloc_trim(0);
    mallopt(M_MMAP_THRESHOLD, 256 << 10);
#endif
    return unused;
}

SCENARIO handler_maps(void) {
    map(5 * MIB);
}

SCENARIO destructor_maps(void *unused) {
    (void)unused;
    map(3 * MIB);
}

static void *with_destructor(void *key) {
    pthread_setspecific(*(pthread_key_t *)key, key);
    return NULL;
}

static void join_one(void *(*run)(void *), void *argument) {
    pthread_t thread;
    check(pthread_create(&thread, NULL, run, argument) == 0, 85);
    check(pthread_join(thread, NULL) == 0, 86);
}

SCENARIO handlers(void) {
    static pthread_key_t key;
    check(pthread_key_create(&key, destructor_maps) == 0, 87);
    join_one(with_destructor, &key);
    check(pthread_atfork(handler_maps, NULL, NULL) == 0, 88);
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    check(child > 0 && waitpid(child, NULL, 0) == child, 89);
    say("done\n");
}

int main(void) {
    char line[64];
    say("ready\n");
    while (read_line(line, sizeof line)) {
        int number = strchr(line, ' ') ? atoi(strchr(line, ' ') + 1) : 0;
        if (strncmp(line, "touch", 5) == 0)
            touch_some();
        else if (strncmp(line, "read", 4) == 0)
            only_read();
        else if (strncmp(line, "map", 3) == 0)
            never_touch((size_t)number);
        else if (strncmp(line, "threads", 7) == 0)
            start(number, waiting, 0);
        else if (strncmp(line, "join", 4) == 0)
            join();
        else if (strncmp(line, "abandon", 7) == 0)
            abandon(number);
        else if (strncmp(line, "free", 4) == 0)
            start(number, freeing, 1);
        else if (strncmp(line, "care", 4) == 0) {
            join_one(caring, NULL);
            say("done\n");
        } else if (strncmp(line, "handlers", 8) == 0)
            handlers();
    }
    return 0;
}
