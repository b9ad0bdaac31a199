/* Blocks that glibc's free releases although none of its functions has returned them: their header
 * says that they were mapped separately (malloc/malloc.c, IS_MMAPPED), and the system call that
 * maps them is made here. An allocator that is linked to the C library and not hooked does the
 * same. They reuse a few addresses.
 *
 * The argument is what to do, and a number: "foreign N" as above; "threads N" blocks of threads
 * that end, whose caches the C library frees for them; "plain N" the same with malloc. */
#include "scenario.h"
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>

enum { PAGE = 4096, IS_MMAPPED = 2 };

static void *foreign_block(void) {
    size_t *chunk = (size_t *)syscall(SYS_mmap, NULL, PAGE, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (chunk == MAP_FAILED)
        _exit(72);
    chunk[1] = PAGE | IS_MMAPPED;
    return chunk + 2;
}

SCENARIO scenario_foreign(size_t count) {
    for (size_t i = 0; i < count; i++) {
        void *block = foreign_block();
        KEEP(block);
        free(block);
        KEEP(block);
    }
}

SCENARIO scenario_plain(size_t count) {
    for (size_t i = 0; i < count; i++) {
        void *block = malloc(100 + i % 10);
        KEEP(block);
        free(block);
        KEEP(block);
    }
}

static void *in_thread(void *argument) {
    scenario_plain(10);
    return argument;
}

SCENARIO scenario_threads(size_t count) {
    for (size_t i = 0; i < count; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, in_thread, NULL) != 0)
            _exit(73);
        pthread_join(thread, NULL);
    }
}

int main(int argc, char **argv) {
    void *blocks[1000];
    if (argc < 3)
        _exit(64);
    size_t count = (size_t)atoi(argv[2]);
    for (size_t i = 0; i < 1000; i++)
        blocks[i] = malloc(100 + i % 10);
    await_go();
    for (size_t i = 0; i < 1000; i++)
        free(blocks[i]);
    switch (argv[1][0]) {
    case 'f':
        scenario_foreign(count);
        break;
    case 't':
        scenario_threads(count);
        break;
    default:
        scenario_plain(count);
    }
    done();
    return 0;
}
