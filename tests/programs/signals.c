/* A timer interrupts the work a thousand times a second, in the middle of allocation functions
 * too, and the handler maps and unmaps a page on a signal stack. */
#include "scenario.h"
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>

static volatile sig_atomic_t interrupts;

static void handler(int signal) {
    (void)signal;
    void *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    KEEP(page);
    munmap(page, 4096);
    interrupts++;
}

SCENARIO scenario_interrupted(void) {
    struct itimerval every_millisecond = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &every_millisecond, NULL);
    while (interrupts < 300) {
        void *block = malloc(100);
        KEEP(block);
        block = realloc(block, 5000);
        KEEP(block);
        free(block);
    }
    setitimer(ITIMER_REAL, &never, NULL);
    for (int i = 0; i < 100; i++)
        KEEP(malloc(100));
}

int main(int argc, char **argv) {
    static char stack[1 << 16];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    if (argc > 1 && strcmp(argv[1], "alternate") == 0) {
        action.sa_flags |= SA_ONSTACK;
        if (sigaltstack(&alternate, NULL) != 0)
            _exit(70);
    }
    sigaction(SIGALRM, &action, NULL);
    await_go();
    scenario_interrupted();
    done();
    return 0;
}
