/* Its first call that is hooked is mmap. */
#include "scenario.h"

#include <sys/mman.h>

static SCENARIO scenario_map(void) {
    KEEP(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

int main(void) {
    for (size_t i = 0; i < opaque(10); i++)
        scenario_map();
    return 0;
}
