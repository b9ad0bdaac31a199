/* A program with its own allocator, whose functions have a prefix: --obj and
 * --symbols-prefix. The arena is static, so that the C library's allocator is not involved. */
#include "scenario.h"

static char arena[1 << 20];
static size_t used;

__attribute__((noinline, noclone)) void *my_malloc(size_t size) {
    void *block = arena + used;
    used += (size + 15) & ~(size_t)15;
    KEEP(block);
    return block;
}

__attribute__((noinline, noclone)) void my_free(void *block) {
    KEEP(block);
}

SCENARIO scenario_own(void) {
    for (size_t i = 0; i < opaque(9); i++)
        KEEP(my_malloc(130));
    my_free(my_malloc(140));
}

SCENARIO scenario_libc(void) {
    for (size_t i = 0; i < opaque(9); i++)
        KEEP(malloc(150));
}

int main(void) {
    await_go();
    scenario_own();
    scenario_libc();
    done();
    return 0;
}
