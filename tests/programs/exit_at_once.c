/* Leaks and exits without waiting: afterwards only the maps contain its allocations. A
 * constructor allocates before main. */
#include "scenario.h"

__attribute__((constructor)) static void early(void) {
    for (size_t i = 0; i < opaque(10); i++)
        KEEP(malloc(16));
}

SCENARIO scenario_leak(void) {
    for (size_t i = 0; i < opaque(1000); i++)
        KEEP(malloc(128));
}

int main(int argc, char **argv) {
    scenario_leak();
    void *block = malloc(1);
    KEEP(block);
    free(block); /* a static program has a free only if it calls it */
    _exit(argc > 1 ? atoi(argv[1]) : 0);
}
