/* A library that leaks, opened late by leak_in_late_library. */
#include <stdlib.h>
#include <string.h>

__attribute__((noinline, noclone)) static void *leak_in_library(size_t size) {
    void *block = malloc(size);
    if (block != NULL)
        memset(block, 1, size);
    return block;
}

size_t handle_event(void);

/* Returns how many bytes it has leaked. */
size_t handle_event(void) {
    return leak_in_library(72) != NULL ? 72 : 0;
}
