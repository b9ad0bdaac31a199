/* Blocks that were there before the tracer: freeing or resizing them must disturb nothing, and a
 * resized one is an allocation from then on. */
#include "scenario.h"

enum { BLOCKS = 1000 };

static void *old[BLOCKS];

SCENARIO scenario_resized(void) {
    for (size_t i = 0; i < opaque(10); i++)
        old[i] = realloc(old[i], 2000);
    KEEP(old);
}

SCENARIO scenario_freed(void) {
    for (int i = 10; i < BLOCKS; i++)
        free(old[i]);
}

SCENARIO scenario_new(void) {
    for (size_t i = 0; i < opaque(7); i++)
        KEEP(malloc(48));
}

int main(void) {
    for (int i = 0; i < BLOCKS; i++)
        old[i] = malloc(48);
    KEEP(old);
    await_go();
    scenario_resized();
    scenario_freed();
    scenario_new();
    done();
    return 0;
}
