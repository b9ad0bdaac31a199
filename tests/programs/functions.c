/* Every allocation function of the C library, a known number of times with known sizes, each from a
 * different function: each must be seen once, with the requested size. */
#include "scenario.h"
#include <malloc.h>
#include <sys/mman.h>

SCENARIO scenario_malloc(void) {
    for (size_t i = 0; i < opaque(3); i++)
        KEEP(malloc(1000));
}

SCENARIO scenario_malloc_zero(void) {
    for (size_t i = 0; i < opaque(2); i++)
        KEEP(malloc(opaque(0)));
}

/* Above the mmap threshold: malloc serves these with mmap, and they must count once. */
SCENARIO scenario_malloc_large(void) {
    for (size_t i = 0; i < opaque(2); i++)
        KEEP(malloc(64u << 20));
}

SCENARIO scenario_calloc(void) {
    for (size_t i = 0; i < opaque(4); i++)
        KEEP(calloc(opaque(10), 33));
}

SCENARIO scenario_realloc_null(void) {
    for (size_t i = 0; i < opaque(5); i++)
        KEEP(realloc(NULL, opaque(77)));
}

SCENARIO scenario_realloc_grows(void) {
    for (size_t i = 0; i < opaque(2); i++) {
        void *block = malloc(100);
        KEEP(block);
        KEEP(realloc(block, 5000));
    }
}

SCENARIO scenario_realloc_shrinks(void) {
    void *block = malloc(5000);
    KEEP(block);
    KEEP(realloc(block, 50));
}

/* Inside the library this one is an mremap. */
SCENARIO scenario_realloc_large(void) {
    void *block = malloc(64u << 20);
    KEEP(block);
    KEEP(realloc(block, 96u << 20));
}

/* glibc frees the block and returns NULL. */
SCENARIO scenario_realloc_to_zero(void) {
    void *block = malloc(64);
    KEEP(block);
    KEEP(realloc(block, opaque(0)));
}

/* reallocarray jumps to realloc (a tail call): two probed functions at one stack pointer. */
SCENARIO scenario_reallocarray(void) {
    for (size_t i = 0; i < opaque(3); i++)
        KEEP(reallocarray(NULL, opaque(7), 11));
}

SCENARIO scenario_reallocarray_grows(void) {
    void *block = malloc(10);
    KEEP(block);
    KEEP(reallocarray(block, opaque(100), 10));
}

SCENARIO scenario_posix_memalign(void) {
    for (size_t i = 0; i < opaque(2); i++) {
        void *block = NULL;
        if (posix_memalign(&block, 64, 500) != 0)
            _exit(71);
        KEEP(block);
    }
}

SCENARIO scenario_aligned_alloc(void) {
    for (size_t i = 0; i < opaque(2); i++)
        KEEP(aligned_alloc(256, 768));
}

SCENARIO scenario_memalign(void) {
    for (size_t i = 0; i < opaque(2); i++)
        KEEP(memalign(128, 300));
}

SCENARIO scenario_valloc(void) {
    for (size_t i = 0; i < opaque(2); i++)
        KEEP(valloc(110));
}

SCENARIO scenario_pvalloc(void) {
    for (size_t i = 0; i < opaque(2); i++)
        KEEP(pvalloc(120));
}

/* The library allocates on the program's behalf: malloc is called from strdup. */
SCENARIO scenario_strdup(void) {
    const char *text = "four";
    KEEP(text);
    KEEP(strdup(text));
}

SCENARIO scenario_mmap(void) {
    for (size_t i = 0; i < opaque(2); i++)
        KEEP(mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

/* What is released leaves nothing behind, whichever function allocated it. */
SCENARIO scenario_all_released(void) {
    void *blocks[8];
    void *aligned = NULL;
    blocks[0] = malloc(10);
    blocks[1] = calloc(opaque(2), 10);
    blocks[2] = realloc(NULL, opaque(30));
    blocks[3] = aligned_alloc(64, 64);
    blocks[4] = memalign(64, 50);
    blocks[5] = valloc(60);
    blocks[6] = reallocarray(NULL, opaque(7), 10);
    if (posix_memalign(&aligned, 64, 80) != 0)
        _exit(71);
    blocks[7] = aligned;
    for (size_t i = 0; i < opaque(8); i++)
        KEEP(blocks[i]);
    void *region = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (size_t i = 0; i < opaque(8); i++)
        free(blocks[i]);
    munmap(region, 4096);
    free(NULL);
}

int main(void) {
    await_go();
    scenario_malloc();
    scenario_malloc_zero();
    scenario_malloc_large();
    scenario_calloc();
    scenario_realloc_null();
    scenario_realloc_grows();
    scenario_realloc_shrinks();
    scenario_realloc_large();
    scenario_realloc_to_zero();
    scenario_reallocarray();
    scenario_reallocarray_grows();
    scenario_posix_memalign();
    scenario_aligned_alloc();
    scenario_memalign();
    scenario_valloc();
    scenario_pvalloc();
    scenario_strdup();
    scenario_mmap();
    scenario_all_released();
    done();
    return 0;
}
