/* A timer's handler jumps out of the program's own malloc, calloc, realloc and free, again and
 * again: calls that never return. */
#include "own_malloc.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/time.h>

enum { ROUNDS = 100 };

static sigjmp_buf back;
static volatile sig_atomic_t waits;

static void jump(int signal) {
    (void)signal;
    siglongjmp(back, 1);
}

static void inside(void) {
    while (waits)
        ;
}

static void call(int which, void *block) {
    switch (which) {
    case 0:
        KEEP(malloc(100));
        break;
    case 1:
        KEEP(calloc(opaque(10), 10));
        break;
    case 2:
        KEEP(realloc(block, 200));
        break;
    default:
        free(block);
    }
}

static void leave(int which, void *block) {
    struct itimerval soon = {{0, 0}, {0, 200}};
    if (sigsetjmp(back, 1) == 0) {
        waits = 1;
        setitimer(ITIMER_REAL, &soon, NULL);
        call(which, block);
        _exit(79); /* not reached */
    }
    waits = 0;
}

SCENARIO scenario(void) {
    for (size_t i = 0; i < opaque(100); i++)
        KEEP(malloc(300));
}

int main(void) {
    struct sigaction action = {.sa_handler = jump};
    volatile unsigned long long jumps = 0;
    sigaction(SIGALRM, &action, NULL);
    await_go();
    for (volatile int i = 0; i < ROUNDS; i++)
        for (volatile int which = 0; which < 4; which++) {
            leave(which, malloc(64));
            jumps++;
        }
    print_result("jumps", jumps);
    scenario();
    account(30000, 100);
    done();
    return 3;
}
