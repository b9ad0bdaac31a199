/* A program's own malloc, calloc, realloc and free, on an arena that is used once and without
 * locks: code inside them leaves no state behind. A thread that sets `is_wasteful` gets memory that
 * is reused soon. The file that includes this defines inside(), which each of the functions calls
 * right before its return. */
#ifndef OWN_MALLOC_H
#define OWN_MALLOC_H

#include "scenario.h"

static void inside(void);

enum { ARENA_BYTES = 32 << 20, RING_BYTES = 4 << 20, LARGEST = 1 << 20 };

static _Alignas(16) char arena[ARENA_BYTES], ring[RING_BYTES + LARGEST + 32];
static size_t arena_used, ring_used;
static _Thread_local int is_wasteful;

static void *take(size_t size) {
    size_t room = ((size + 15) & ~(size_t)15) + 16;
    size_t at = __atomic_fetch_add(is_wasteful ? &ring_used : &arena_used, room, __ATOMIC_RELAXED);
    if (size > LARGEST || (!is_wasteful && at + room > ARENA_BYTES))
        _exit(71);
    char *block = is_wasteful ? ring + at % RING_BYTES : arena + at;
    *(size_t *)block = size;
    return block + 16;
}

static size_t size_of(const void *block) {
    return *(const size_t *)((const char *)block - 16);
}

__attribute__((noinline, noclone)) void *malloc(size_t size) {
    void *block = take(size);
    inside();
    KEEP(block);
    return block;
}

__attribute__((noinline, noclone)) void *calloc(size_t count, size_t size) {
    void *block = take(count * size);
    memset(block, 0, count * size);
    inside();
    KEEP(block);
    return block;
}

__attribute__((noinline, noclone)) void *realloc(void *old, size_t size) {
    void *block = take(size);
    if (old != NULL)
        memcpy(block, old, size_of(old) < size ? size_of(old) : size);
    inside();
    KEEP(block);
    return block;
}

__attribute__((noinline, noclone)) void free(void *block) {
    inside();
    KEEP(block);
}

size_t malloc_usable_size(void *block) {
    return block != NULL ? size_of(block) : 0;
}

#endif
