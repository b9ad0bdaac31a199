/* A program that handles SIGTRAP itself: it executes its own breakpoint instructions and
 * raises the signal, between allocations. */
#include "scenario.h"
#include <signal.h>

enum { ROUNDS = 100 };

static volatile sig_atomic_t breakpoints, raised;

static void handler(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)context;
    if (info->si_code == SI_TKILL)
        raised++;
    else
        breakpoints++;
}

SCENARIO scenario(void) {
    for (size_t i = 0; i < opaque(ROUNDS); i++) {
        KEEP(malloc(300));
#if defined(__x86_64__)
        __asm__ volatile("int3");
#else
        raise(SIGTRAP);
#endif
        free(malloc(200));
        raise(SIGTRAP);
    }
}

int main(void) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    sigaction(SIGTRAP, &action, NULL);
    await_go();
    scenario();
    print_result("breakpoints", (unsigned long long)breakpoints);
    print_result("raised", (unsigned long long)raised);
    account(ROUNDS * 300, ROUNDS);
    done();
    return 3;
}
