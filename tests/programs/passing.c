/* Calls that a filter leaves out, with mappings inside them and mappings that only seem to be
 * inside. The end of a filtered call is not seen: the stack of a mapping shows whether it is
 * inside.
 */
#include "scenario.h"
#include <sys/mman.h>

/* Mapped with its header, in whole pages: 1,052,672 bytes. */
#define BLOCK 1049000u
#define MAPPED (4u << 20)

static void *map(size_t size) {
    void *region = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED)
        _exit(72);
    return region;
}

/* malloc maps each of these: none of the program's mappings. */
SCENARIO scenario_inside(void) {
    for (size_t i = 0; i < opaque(5); i++)
        KEEP(malloc(BLOCK));
}

/* From the same function, right after. */
SCENARIO scenario_after(void) {
    KEEP(malloc(BLOCK));
    KEEP(map(MAPPED));
}

static __attribute__((noinline, noclone)) void *callee(void) {
    void *region = map(MAPPED);
    KEEP(region);
    return region;
}

/* The call of callee is at the stack location where that of malloc was. */
SCENARIO scenario_callee_after(void) {
    KEEP(malloc(BLOCK));
    KEEP(callee());
}

static __attribute__((noinline, noclone)) void allocate(void) {
    KEEP(malloc(BLOCK));
}

/* Its frame covers the location where the call of malloc was, and leaves it unchanged. */
static __attribute__((noinline, noclone)) void *map_below(void) {
    char room[2048];
    KEEP(room);
    void *region = map(MAPPED);
    KEEP(room);
    return region;
}

SCENARIO scenario_stale_frame(void) {
    allocate();
    KEEP(map_below());
}

/* Turn by turn. */
SCENARIO scenario_in_turn(void) {
    KEEP(malloc(BLOCK));
    KEEP(callee());
    KEEP(malloc(BLOCK));
    KEEP(callee());
}

/* One of two allocators, by a jump each: the call of either returns to the same place. */
static __attribute__((noinline, noclone)) void *map_or_allocate(size_t size) {
    if (size == MAPPED)
        return map(size);
    return malloc(size);
}

SCENARIO scenario_by_jump(void) {
    for (size_t i = 0; i < opaque(6); i++)
        KEEP(map_or_allocate(i % 2 ? MAPPED : BLOCK));
}

SCENARIO scenario_by_pointer(void) {
    static void *(*const volatile allocators[2])(size_t) = {malloc, map};
    for (size_t i = 0; i < opaque(6); i++)
        KEEP(allocators[i % 2](i % 2 ? MAPPED : BLOCK));
}

/* calloc is followed independently of the filter. */
SCENARIO scenario_inside_calloc(void) {
    for (size_t i = 0; i < opaque(3); i++)
        KEEP(calloc(1, BLOCK));
}

int main(void) {
    await_go();
    scenario_inside();
    scenario_after();
    scenario_callee_after();
    scenario_stale_frame();
    scenario_in_turn();
    scenario_by_jump();
    scenario_by_pointer();
    scenario_inside_calloc();
    done();
}
