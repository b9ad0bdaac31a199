/* Has its own malloc, over whose first bytes it writes a jump to another one, as hooking libraries
 * do: at the start or, with an argument, while it is traced. Exits with another status if its patch
 * is not what runs. */
#include "scenario.h"
#include <sys/mman.h>

static char arena[1 << 20];
static size_t used, by_hook;

static void *take(size_t size) {
    void *block = arena + used;
    used += (size + 15) & ~(size_t)15;
    return block;
}

__attribute__((noinline, noclone)) void *malloc(size_t size) {
    void *block = take(size);
    KEEP(block);
    return block;
}

__attribute__((noinline, noclone)) void free(void *block) {
    KEEP(block);
}

__attribute__((noinline, noclone)) void *hook(size_t size) {
    by_hook++;
    void *block = take(size);
    KEEP(block);
    return block;
}

static void patch(void) {
    unsigned char *at = (unsigned char *)malloc;
    uintptr_t page = (uintptr_t)at & ~(uintptr_t)4095;
    if (mprotect((void *)page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC) != 0)
        _exit(73);
    int32_t distance = (int32_t)((uintptr_t)hook - (uintptr_t)at - 5);
    at[0] = 0xe9;
    memcpy(at + 1, &distance, sizeof distance);
    if (mprotect((void *)page, 8192, PROT_READ | PROT_EXEC) != 0)
        _exit(73);
}

int main(int argc, char **argv) {
    (void)argv;
    int is_later = argc > 1;
    if (!is_later)
        patch();
    await_go();
    if (is_later) {
        patch();
        say("patched\n");
        await_line();
    }
    for (size_t i = 0; i < opaque(1000); i++) {
        void *block = malloc(16);
        KEEP(block);
        free(block);
    }
    done_with_account(by_hook * 16, by_hook);
    return by_hook == 1000 ? 0 : 74;
}
