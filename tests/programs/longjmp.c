/* A call of an allocation function that never returns: posix_memalign faults on a bad pointer
 * inside itself, and the signal handler jumps out. What the thread allocates afterwards, from the
 * same depth, deeper and shallower, must be seen. */
#include "scenario.h"
#include <setjmp.h>
#include <signal.h>

static sigjmp_buf back;

static void jump(int signal) {
    (void)signal;
    siglongjmp(back, 1);
}

SCENARIO leave_by_jump(void) {
    if (sigsetjmp(back, 1) == 0) {
        void **nowhere = (void **)opaque(16);
        int error = posix_memalign(nowhere, 64, 100);
        KEEP(error);
        _exit(79); /* not reached */
    }
}

SCENARIO scenario_same_depth(void) {
    if (sigsetjmp(back, 1) == 0) {
        void **nowhere = (void **)opaque(16);
        int error = posix_memalign(nowhere, 64, 100);
        KEEP(error);
        _exit(79);
    }
    for (size_t i = 0; i < opaque(5); i++)
        KEEP(malloc(100));
}

SCENARIO scenario_same_function(void) {
    if (sigsetjmp(back, 1) == 0) {
        void **nowhere = (void **)opaque(16);
        int error = posix_memalign(nowhere, 64, 100);
        KEEP(error);
        _exit(79);
    }
    for (size_t i = 0; i < opaque(5); i++) {
        void *block = NULL;
        if (posix_memalign(&block, 64, 200) != 0)
            _exit(71);
        KEEP(block);
    }
}

SCENARIO scenario_shallower(void) {
    leave_by_jump();
    for (size_t i = 0; i < opaque(5); i++)
        KEEP(malloc(300));
}

__attribute__((noinline, noclone)) void *deeper(int levels, size_t size) {
    volatile char room[64];
    room[0] = (char)levels;
    KEEP(room);
    void *block = levels > 0 ? deeper(levels - 1, size) : malloc(size);
    KEEP(block);
    return block;
}

SCENARIO scenario_deeper(void) {
    if (sigsetjmp(back, 1) == 0) {
        void **nowhere = (void **)opaque(16);
        int error = posix_memalign(nowhere, 64, 100);
        KEEP(error);
        _exit(79);
    }
    for (size_t i = 0; i < opaque(5); i++)
        KEEP(deeper(3, 400));
}

int main(void) {
    struct sigaction action = {.sa_handler = jump};
    sigaction(SIGSEGV, &action, NULL);
    await_go();
    scenario_same_depth();
    scenario_same_function();
    scenario_shallower();
    scenario_deeper();
    done();
    return 0;
}
