/* A program's own malloc, calloc, realloc and free read their caller's address, as debugging
 * allocators and some kinds of copy protection do: every caller is in the program's own text. */
#include "scenario.h"

extern const char __executable_start[], etext[];

static _Alignas(16) char arena[1 << 20];
static size_t used;
static unsigned long long from_here, from_elsewhere;

static void look_at(const void *caller) {
    if ((const char *)caller >= __executable_start && (const char *)caller < etext)
        from_here++;
    else
        from_elsewhere++;
}

static void *take(size_t size) {
    used += (size + 15) & ~(size_t)15;
    if (used > sizeof arena)
        _exit(71);
    return arena + used - ((size + 15) & ~(size_t)15);
}

__attribute__((noinline, noclone)) void *malloc(size_t size) {
    look_at(__builtin_return_address(0));
    return take(size);
}

__attribute__((noinline, noclone)) void *calloc(size_t count, size_t size) {
    look_at(__builtin_return_address(0));
    return take(count * size);
}

__attribute__((noinline, noclone)) void *realloc(void *old, size_t size) {
    look_at(__builtin_return_address(0));
    KEEP(old);
    return take(size);
}

__attribute__((noinline, noclone)) void free(void *block) {
    look_at(__builtin_return_address(0));
    KEEP(block);
}

SCENARIO scenario(void) {
    for (size_t i = 0; i < opaque(100); i++) {
        KEEP(malloc(300));
        void *block = calloc(opaque(3), 30);
        KEEP(block);
        block = realloc(block, 200);
        KEEP(block);
        free(block);
    }
}

int main(void) {
    await_go();
    from_here = from_elsewhere = 0;
    scenario();
    print_result("from here", from_here);
    print_result("from elsewhere", from_elsewhere);
    account(30000, 100);
    done();
    return 3;
}
