/* Two coroutines on separate stacks (ucontext) allocate in turns: one thread, several stacks, whose
 * pointers can't be compared. */
#include "scenario.h"
#include <sys/mman.h>
#include <ucontext.h>

enum { TURNS = 50, STACK_BYTES = 1 << 16 };

static ucontext_t scheduler;
static ucontext_t coroutines[2];

SCENARIO scenario_coroutine(int me) {
    for (int i = 0; i < TURNS; i++) {
        KEEP(malloc(160));
        swapcontext(&coroutines[me], &scheduler);
        void *block = NULL;
        if (posix_memalign(&block, 64, 170) != 0)
            _exit(71);
        free(block);
        swapcontext(&coroutines[me], &scheduler);
    }
}

int main(void) {
    for (volatile int i = 0; i < 2; i++) {
        void *stack =
            mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stack == MAP_FAILED || getcontext(&coroutines[i]) != 0)
            _exit(70);
        coroutines[i].uc_stack.ss_sp = stack;
        coroutines[i].uc_stack.ss_size = STACK_BYTES;
        coroutines[i].uc_link = &scheduler;
        makecontext(&coroutines[i], (void (*)(void))scenario_coroutine, 1, i);
    }
    await_go();
    for (int i = 0; i < 2 * TURNS; i++)
        for (int me = 0; me < 2; me++)
            swapcontext(&scheduler, &coroutines[me]);
    done();
    return 0;
}
