/* Wrappers that jump to the allocation function: they have no frame, so the stack starts at their
 * caller. Built with -O2 -foptimize-sibling-calls. */
#include "scenario.h"

__attribute__((noinline, noclone)) void *wrap_malloc(size_t size) {
    return malloc(size);
}

__attribute__((noinline, noclone)) void *wrap_calloc(size_t size) {
    return calloc(1, size);
}

__attribute__((noinline, noclone)) void *wrap_realloc(void *block, size_t size) {
    return realloc(block, size);
}

__attribute__((noinline, noclone)) void wrap_free(void *block) {
    free(block);
}

SCENARIO scenario_tail_malloc(void) {
    for (size_t i = 0; i < opaque(4); i++)
        KEEP(wrap_malloc(210));
}

SCENARIO scenario_tail_calloc(void) {
    for (size_t i = 0; i < opaque(4); i++)
        KEEP(wrap_calloc(220));
}

SCENARIO scenario_tail_realloc(void) {
    void *block = NULL;
    for (int i = 1; i <= 4; i++) {
        block = wrap_realloc(block, 230 * (size_t)i);
        KEEP(block);
    }
}

SCENARIO scenario_tail_free(void) {
    void *block = wrap_malloc(240);
    KEEP(block);
    wrap_free(block);
    KEEP(block);
}

int main(void) {
    await_go();
    scenario_tail_malloc();
    scenario_tail_calloc();
    scenario_tail_realloc();
    scenario_tail_free();
    done();
    return 0;
}
