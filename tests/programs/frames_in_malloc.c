/* What backtrace() and the unwinder see from inside a program's own malloc, calloc, realloc and
 * free is printed: the frames are those of an untraced run. */
#include "own_malloc.h"
#include "frames.h"

static int prints;

static void inside(void) {
    if (!prints)
        return;
    prints = 0; /* backtrace may allocate */
    print_backtrace();
    print_unwound();
    prints = 1;
}

SCENARIO scenario(void) {
    for (size_t i = 0; i < opaque(3); i++) {
        void *block = malloc(100);
        KEEP(block);
        block = realloc(block, 200);
        KEEP(block);
        free(block);
        KEEP(calloc(opaque(10), 30));
    }
}

int main(void) {
    load_unwinder();
    await_go();
    prints = 1;
    scenario();
    prints = 0;
    account(3 * 300, 3);
    done();
    return 3;
}
