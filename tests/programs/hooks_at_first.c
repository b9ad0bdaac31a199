/* A program's own malloc and realloc that go through a pointer until they are set up, as those of
 * glibc did until 2.33 (__malloc_hook): the function behind the pointer sets it to NULL and calls
 * the first one again. */
#include "scenario.h"

static _Alignas(16) char arena[1 << 20];
static size_t used;

static void *set_up_malloc(size_t size);
static void *set_up_realloc(void *old, size_t size);
static void *(*volatile malloc_hook)(size_t) = set_up_malloc;
static void *(*volatile realloc_hook)(void *, size_t) = set_up_realloc;

static __attribute__((noinline)) void *take(size_t size) {
    char *block = arena + used;
    used += (size + 31) & ~(size_t)15;
    if (used > sizeof arena)
        _exit(71);
    *(size_t *)block = size;
    return block + 16;
}

__attribute__((noinline, noclone)) void *malloc(size_t size) {
    void *(*hook)(size_t) = malloc_hook;
    if (hook != NULL)
        return hook(size);
    void *block = take(size);
    KEEP(block);
    return block;
}

__attribute__((noinline, noclone)) void *realloc(void *old, size_t size) {
    void *(*hook)(void *, size_t) = realloc_hook;
    if (hook != NULL)
        return hook(old, size);
    void *block = take(size);
    if (old != NULL)
        memcpy(block, old, size);
    KEEP(block);
    return block;
}

__attribute__((noinline, noclone)) void free(void *block) {
    KEEP(block);
}

static void *set_up_malloc(size_t size) {
    malloc_hook = NULL;
    return malloc(size);
}

static void *set_up_realloc(void *old, size_t size) {
    realloc_hook = NULL;
    return realloc(old, size);
}

SCENARIO scenario_first_calls(void) {
    char *block = malloc(100);
    KEEP(block);
    block = realloc(block, 70);
    KEEP(block);
    KEEP(malloc(30));
}

int main(void) {
    await_go();
    scenario_first_calls();
    say("done\n");
    await_line();
    return 0;
}
