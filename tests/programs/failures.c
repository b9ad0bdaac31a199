/* Calls that fail: nothing may be recorded for them, and what was there before must stay.
 * (memleak loses the block of a failed realloc, and counts MAP_FAILED as an allocation.) */
#include "scenario.h"
#include <stdint.h>
#include <sys/mman.h>

static void *pages(size_t count) {
    void *region =
        mmap(NULL, count * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED)
        _exit(72);
    KEEP(region);
    return region;
}

static void expect(int condition) {
    if (!condition)
        _exit(73);
}

SCENARIO scenario_malloc_fails(void) {
    void *block = malloc(opaque((size_t)PTRDIFF_MAX + 1));
    KEEP(block);
    expect(block == NULL);
}

SCENARIO scenario_calloc_overflows(void) {
    void *block = calloc(opaque(SIZE_MAX / 2), 4);
    KEEP(block);
    expect(block == NULL);
}

SCENARIO scenario_realloc_fails(void) {
    void *block = malloc(123);
    KEEP(block);
    void *moved = realloc(block, opaque((size_t)PTRDIFF_MAX + 1));
    KEEP(moved);
    expect(moved == NULL);
}

SCENARIO scenario_realloc_fails_then_freed(void) {
    void *block = malloc(123);
    KEEP(block);
    void *moved = realloc(block, opaque((size_t)PTRDIFF_MAX + 1));
    KEEP(moved);
    expect(moved == NULL);
    free(block);
}

SCENARIO scenario_reallocarray_overflows(void) {
    void *block = malloc(321);
    KEEP(block);
    void *moved = reallocarray(block, opaque(SIZE_MAX / 2), 4);
    KEEP(moved);
    expect(moved == NULL);
}

/* Here the product wraps around to exactly 0, which is not the same as asking for 0 bytes. */
SCENARIO scenario_reallocarray_wraps_to_zero(void) {
    void *block = malloc(322);
    KEEP(block);
    void *moved = reallocarray(block, opaque((size_t)1 << 62), 4);
    KEEP(moved);
    expect(moved == NULL);
}

/* The pointer that posix_memalign would have set still holds a live block: a tracer that ignores
 * the return value records that block a second time. */
SCENARIO scenario_posix_memalign_fails(void) {
    void *block = malloc(40);
    KEEP(block);
    void *result = block;
    expect(posix_memalign(&result, opaque(3), 100) != 0);
    KEEP(result);
}

SCENARIO scenario_aligned_alloc_fails(void) {
    void *block = aligned_alloc(64, opaque((size_t)PTRDIFF_MAX + 1));
    KEEP(block);
    expect(block == NULL);
}

SCENARIO scenario_mmap_fails(void) {
    void *region = mmap(NULL, opaque(0), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    KEEP(region);
    expect(region == MAP_FAILED);
}

SCENARIO scenario_mremap_fails(void) {
    void *region = pages(2);
    void *moved = mremap(region, 2 * 4096, opaque((size_t)1 << 50), MREMAP_MAYMOVE);
    KEEP(moved);
    expect(moved == MAP_FAILED);
}

SCENARIO scenario_munmap_fails(void) {
    char *region = pages(2);
    expect(munmap(region + 1, 4096) != 0);
    KEEP(region);
}

int main(void) {
    await_go();
    scenario_malloc_fails();
    scenario_calloc_overflows();
    scenario_realloc_fails();
    scenario_realloc_fails_then_freed();
    scenario_reallocarray_overflows();
    scenario_reallocarray_wraps_to_zero();
    scenario_posix_memalign_fails();
    scenario_aligned_alloc_fails();
    scenario_mmap_fails();
    scenario_mremap_fails();
    scenario_munmap_fails();
    done();
    return 0;
}
