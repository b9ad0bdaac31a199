/* Calls of allocation functions with random arguments, by one thread or several, which take over
 * each other's blocks. The live blocks are written to a file: address and requested size of each
 * block, two words each.
 *
 *   PROGRAM FILE CALLS [THREADS] [short]
 *
 * CALLS of each function; "short": address space is limited, so that allocators run out of it.
 * The file that includes this defines FUNCTIONS and call_function().
 */
#ifndef BY_CHANCE_H
#define BY_CHANCE_H

#include "scenario.h"
#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>

enum { PHASES = 4, MOST_THREADS = 8, BURST = 40 };
static const size_t MOST_SLOTS = 20000, PAGE_SLOTS = 500;

struct block {
    uint64_t address; /* 0: none */
    uint64_t size;
    uint64_t kind; /* what it has to be released with */
};

/* One call of function `which`, which may use the block in the slot. Afterwards the slot contains
 * the block that the program has. */
static void call_function(int which, struct block *slot);
static void release(struct block *slot);
static int takes_pages(int which);

static struct block blocks[FUNCTIONS * 20000];
static size_t calls, slots_of_thread, thread_count = 1;
static pthread_barrier_t together;
static __thread uint64_t state;

static uint64_t by_chance(uint64_t limit) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 11) % limit;
}

static size_t any_size(void) {
    return by_chance(64) ? by_chance(512) : by_chance(300000);
}

static size_t impossible_size(void) {
#ifdef NOTHING_IMPOSSIBLE
    return any_size();
#endif
    static const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 4096, (size_t)PTRDIFF_MAX + 1,
                                   (size_t)1 << 62, (size_t)1 << 50};
    return sizes[by_chance(sizeof sizes / sizeof *sizes)];
}

static inline size_t any_alignment(void) {
    return (size_t)8 << (by_chance(100) ? by_chance(7) : by_chance(14));
}

/* Blocks of one size, allocated and freed in a row: an allocator's caches fill up and run empty. */
static void burst(int which) {
    struct block some[BURST];
    memset(some, 0, sizeof some);
    size_t first = by_chance(2) ? 0 : 1; /* in the same order, or the other one */
    for (size_t i = 0; i < BURST; i++)
        call_function(which, &some[i]);
    for (size_t i = 0; i < BURST; i++)
        release(&some[first ? i : BURST - 1 - i]);
}

static struct block *any_slot(int which, size_t share) {
    size_t count = takes_pages(which) ? PAGE_SLOTS / thread_count : slots_of_thread;
    return &blocks[(size_t)which * MOST_SLOTS + share * slots_of_thread + by_chance(count)];
}

static void *call_all(void *argument) {
    size_t me = (size_t)argument;
    state = 88172645463325252u + me * 7919;
    void *first = malloc(opaque(1)); /* a thread's own memory, before memory runs short */
    KEEP(first);
    free(first);
    pthread_barrier_wait(&together);
    pthread_barrier_wait(&together);
    for (size_t phase = 0; phase < PHASES; phase++) {
        for (size_t i = 0; i < calls * FUNCTIONS / thread_count / PHASES; i++) {
            int which = (int)by_chance(FUNCTIONS);
            call_function(which, any_slot(which, (me + phase) % thread_count));
            if (by_chance(5000) == 0)
                burst(which);
        }
        pthread_barrier_wait(&together);
    }
    pthread_barrier_wait(&together); /* the threads end when the account is written */
    return NULL;
}

static void write_down(const char *path) {
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0)
        _exit(72);
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        if (blocks[i].address != 0 && write(file, &blocks[i], 16) != 16)
            _exit(73);
    close(file);
}

static void limit_address_space(void) {
    char text[32] = "";
    int file = open("/proc/self/statm", O_RDONLY);
    if (file < 0 || read(file, text, sizeof text - 1) <= 0)
        _exit(75);
    close(file);
    struct rlimit limit;
    getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = strtoul(text, NULL, 10) * 4096 + (32 << 20);
    if (setrlimit(RLIMIT_AS, &limit) != 0)
        _exit(75);
}

static void lift_limit(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_AS, &limit);
}

int main(int count, char **words) {
    pthread_t threads[MOST_THREADS];
    if (count < 3)
        return 64;
    calls = strtoul(words[2], NULL, 10);
    if (count > 3)
        thread_count = strtoul(words[3], NULL, 10);
    int is_short = count > 4 && strcmp(words[4], "short") == 0;
    if (thread_count < 1 || thread_count > MOST_THREADS)
        return 64;
    slots_of_thread = (calls / 5 < MOST_SLOTS ? calls / 5 : MOST_SLOTS) / thread_count;
    if (slots_of_thread < PAGE_SLOTS / thread_count)
        return 64;
    pthread_barrier_init(&together, NULL, (unsigned)thread_count + 1);
    for (size_t i = 0; i < thread_count; i++)
        if (pthread_create(&threads[i], NULL, call_all, (void *)i) != 0)
            _exit(70);
    pthread_barrier_wait(&together);
    await_go();
    if (is_short)
        limit_address_space();
    for (int phase = 0; phase < 1 + PHASES; phase++)
        pthread_barrier_wait(&together);
    lift_limit();
    write_down(words[1]);
    done();
    pthread_barrier_wait(&together);
    for (size_t i = 0; i < thread_count; i++)
        pthread_join(threads[i], NULL);
    return 0;
}

#endif
