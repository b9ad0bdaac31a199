/* A program with functions of mimalloc that call the C library's, as a build without mimalloc may
 * have them. Blocks of one are released by the other. */
#include "scenario.h"

#define FUNCTION __attribute__((noinline, noclone))

FUNCTION void *mi_malloc(size_t size) {
    void *block = malloc(size);
    KEEP(block);
    return block;
}

FUNCTION void *mi_realloc(void *old, size_t size) {
    void *block = realloc(old, size);
    KEEP(block);
    return block;
}

FUNCTION void mi_free(void *block) {
    KEEP(block);
    free(block);
}

SCENARIO scenario_own(void) {
    for (size_t i = 0; i < opaque(100); i++)
        KEEP(mi_malloc(100));
}

SCENARIO scenario_c(void) {
    for (size_t i = 0; i < opaque(100); i++)
        KEEP(malloc(opaque(200)));
}

SCENARIO scenario_resized(void) {
    for (size_t i = 0; i < opaque(100); i++) {
        void *block = mi_malloc(10);
        KEEP(realloc(block, opaque(300)));
        block = malloc(opaque(10));
        KEEP(mi_realloc(block, 400));
        block = mi_malloc(50);
        if (mi_realloc(block, opaque(SIZE_MAX / 4)) != NULL) /* fails, and keeps the block */
            _exit(71);
    }
}

SCENARIO scenario_released(void) {
    for (size_t i = 0; i < opaque(1000); i++) {
        mi_free(malloc(opaque(500)));
        free(mi_malloc(600));
        mi_free(mi_malloc(700));
    }
}

int main(void) {
    await_go();
    scenario_own();
    scenario_c();
    scenario_resized();
    scenario_released();
    done();
    return 0;
}
