/* Many stacks, and deep ones. Argument LEVELS: a chain of that many calls, each through one
 * of two call sites, gives 2^LEVELS different stacks; two blocks of 24 bytes are allocated from
 * each. Then one block of 40 bytes from under 300 frames, and one of 56 in a signal handler. */
#include "scenario.h"
#include <signal.h>

__attribute__((noinline, noclone)) void chain(unsigned path, int levels) {
    if (levels == 0) {
        for (size_t i = 0; i < opaque(2); i++)
            KEEP(malloc(24));
    } else if (path & 1) {
        chain(path >> 1, levels - 1);
        KEEP(path);
    } else {
        chain(path >> 1, levels - 1);
        KEEP(levels);
    }
}

__attribute__((noinline, noclone)) void dig(int levels) {
    if (levels == 0)
        KEEP(malloc(40));
    else
        dig(levels - 1);
    KEEP(levels);
}

SCENARIO scenario_many(int levels) {
    for (unsigned path = 0; path < 1u << levels; path++)
        chain(path, levels);
}

SCENARIO scenario_deep(void) {
    dig(300);
    KEEP(0);
}

static void handler(int signal) {
    KEEP(malloc(56));
    KEEP(signal);
}

SCENARIO scenario_in_handler(void) {
    raise(SIGUSR1);
    KEEP(0);
}

int main(int argc, char **argv) {
    int levels = argc > 1 ? atoi(argv[1]) : 4;
    struct sigaction action = {.sa_handler = handler};
    sigaction(SIGUSR1, &action, NULL);
    await_go();
    scenario_many(levels);
    scenario_deep();
    scenario_in_handler();
    done();
    return 0;
}
