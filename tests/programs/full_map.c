/* A call site that allocates while the map of allocations is full, and again when it isn't. */
#include "scenario.h"

enum { BLOCKS = 2000, LATE = 20 };

static void *blocks[BLOCKS];

SCENARIO scenario_fill(void) {
    for (size_t i = 0; i < opaque(BLOCKS); i++)
        blocks[i] = malloc(8);
}

SCENARIO scenario_late(void) {
    for (size_t i = 0; i < opaque(LATE); i++)
        KEEP(malloc(77));
}

int main(void) {
    await_go();
    scenario_fill();
    for (size_t round = 0; round < opaque(2); round++) {
        scenario_late();
        for (size_t i = 0; i < opaque(BLOCKS); i++) {
            free(blocks[i]);
            blocks[i] = NULL;
        }
    }
    done();
    return 0;
}
