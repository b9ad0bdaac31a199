/* Allocates in a signal handler while the vDSO runs: five blocks of 70 bytes. */
#include "scenario.h"
#include <signal.h>
#include <sys/auxv.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>

static volatile sig_atomic_t seen;

static void handler(int signal, siginfo_t *info, void *context) {
    uintptr_t vdso = getauxval(AT_SYSINFO_EHDR);
    uintptr_t pc = (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    (void)info;
    if (seen < 5 && pc >= vdso && pc < vdso + 16384) {
        KEEP(malloc(70));
        seen++;
    }
    KEEP(signal);
}

SCENARIO scenario_vdso(void) {
    struct timespec now;
    while (seen < 5)
        clock_gettime(CLOCK_MONOTONIC, &now);
    KEEP(&now);
}

int main(void) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct itimerval often = {.it_interval.tv_usec = 2000, .it_value.tv_usec = 2000};
    struct itimerval never = {.it_value.tv_usec = 0};
    await_go();
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    scenario_vdso();
    setitimer(ITIMER_REAL, &never, NULL);
    done();
    return 0;
}
