/* The functions that every allocator library has (jemalloc, tcmalloc, musl, a static libc). */
#include "scenario.h"
#include <malloc.h>

SCENARIO scenario_malloc(void) {
    for (size_t i = 0; i < opaque(100); i++)
        KEEP(malloc(1000));
}

SCENARIO scenario_large(void) {
    for (size_t i = 0; i < opaque(3); i++)
        KEEP(malloc(8u << 20));
}

SCENARIO scenario_calloc(void) {
    for (size_t i = 0; i < opaque(100); i++)
        KEEP(calloc(opaque(10), 33));
}

SCENARIO scenario_realloc(void) {
    for (size_t i = 0; i < opaque(100); i++) {
        void *block = malloc(100);
        KEEP(block);
        KEEP(realloc(block, 50 + 100 * i));
    }
}

SCENARIO scenario_aligned(void) {
    for (size_t i = 0; i < opaque(100); i++) {
        void *block = NULL;
        if (posix_memalign(&block, 64, 500) != 0)
            _exit(71);
        KEEP(block);
        KEEP(aligned_alloc(64, 640));
        KEEP(memalign(128, 300));
    }
}

SCENARIO scenario_released(void) {
    static void *blocks[1000];
    for (size_t round = 0; round < 10; round++) {
        for (size_t i = 0; i < 1000; i++)
            blocks[i] = malloc(i * (round + 1));
        KEEP(blocks);
        for (size_t i = 0; i < 1000; i++)
            free(blocks[i]);
    }
}

int main(void) {
    await_go();
    scenario_malloc();
    scenario_large();
    scenario_calloc();
    scenario_realloc();
    scenario_aligned();
    scenario_released();
    done();
    return 0;
}
