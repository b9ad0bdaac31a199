// A malloc written in C (refusing_malloc.c) calls back into C++, which throws: exceptions pass
// through malloc, calloc, realloc and free.
#include "scenario.h"

struct Refusal {};

static bool is_refusing;

extern "C" void refuse_now_and_then() {
    if (is_refusing) {
        is_refusing = false;
        throw Refusal();
    }
}

// As functions that may throw: the C library's header says that they never do.
static void *(*volatile malloc_here)(size_t) = (void *(*)(size_t))malloc;
static void *(*volatile calloc_here)(size_t, size_t) = (void *(*)(size_t, size_t))calloc;
static void *(*volatile realloc_here)(void *, size_t) = (void *(*)(void *, size_t))realloc;
static void (*volatile free_here)(void *) = (void (*)(void *))free;

static void call(int which, void *block) {
    if (which == 0)
        KEEP(malloc_here(100));
    else if (which == 1)
        KEEP(calloc_here(10, 10));
    else if (which == 2)
        KEEP(realloc_here(block, 200));
    else
        free_here(block);
}

SCENARIO scenario() {
    for (size_t i = 0; i < opaque(100); i++)
        KEEP(malloc_here(300));
}

int main() {
    unsigned caught = 0;
    await_go();
    for (int i = 0; i < 100; i++)
        for (int which = 0; which < 4; which++) {
            void *block = malloc_here(64);
            try {
                is_refusing = i % 2 == 0;
                call(which, block);
            } catch (const Refusal &) {
                caught++;
                // Thrown objects are allocated with the same malloc: nothing is refused there.
            }
        }
    print_result("caught", caught);
    scenario();
    account(30000, 100);
    done();
    return 3;
}
