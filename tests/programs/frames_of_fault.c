/* The handler of a fault inside an allocation function prints the frames, as crash reporters do,
 * and jumps back. */
#include "frames.h"
#include <setjmp.h>
#include <signal.h>

static sigjmp_buf back;

static void report(int signal) {
    (void)signal;
    print_backtrace();
    print_unwound();
    siglongjmp(back, 1);
}

SCENARIO scenario(void) {
    for (size_t i = 0; i < opaque(10); i++)
        KEEP(malloc(300));
}

int main(void) {
    struct sigaction action = {.sa_handler = report};
    load_unwinder();
    sigaction(SIGSEGV, &action, NULL);
    await_go();
    for (volatile int i = 0; i < 3; i++)
        if (sigsetjmp(back, 1) == 0) {
            int error = posix_memalign((void **)opaque(16), 64, 100);
            print_result("no fault", (unsigned long long)error);
        }
    scenario();
    account(3000, 10);
    done();
    return 3;
}
