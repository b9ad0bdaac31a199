/* The C library's allocation functions, called with random arguments: see by_chance.h.
 * -DNOTHING_IMPOSSIBLE: for an allocator that crashes where it should fail; -DNOTHING_ALIGNED: for
 * one that crashes when many of its blocks are aligned. */
enum { FUNCTIONS = 9 };
#include "by_chance.h"
#include <malloc.h>

static void release(struct block *slot) {
    free((void *)slot->address);
    slot->address = 0;
}

static int takes_pages(int which) {
    return which >= 7; /* whole pages are expensive: fewer of them are live */
}

static void *posix_aligned(size_t size) {
    void *block = NULL;
    size_t alignment = by_chance(200) ? any_alignment() : by_chance(8); /* all invalid */
    return posix_memalign(&block, alignment, size) ? NULL : block;
}

static void *new_block(int which, size_t *size) {
    size_t count;
    *size = by_chance(300) ? any_size() : impossible_size();
    switch (which) {
    case 0:
        return malloc(*size);
    case 1:
        if (*size > 300000) /* the product is, or wraps around to a small number */
            return by_chance(2) ? calloc(1, *size) : calloc(opaque(SIZE_MAX / 4 + 2), 4);
        count = by_chance(9);
        *size = by_chance(300) * count;
        return count ? calloc(count, *size / count) : calloc(by_chance(9), 0);
    case 4:
        return posix_aligned(*size);
    case 5:
        return aligned_alloc(any_alignment(), *size);
    case 6:
        return memalign(any_alignment(), *size);
    case 7:
        return valloc(*size);
    default:
#ifdef WITH_PVALLOC
        return pvalloc(*size);
#else
        return malloc(*size);
#endif
    }
}

/* Grown, shrunk, moved, newly allocated, freed, or refused and unchanged. */
static void resize(int which, struct block *slot) {
    void *old = (void *)slot->address, *new;
    size_t size = by_chance(300) ? 1 + any_size() : by_chance(2) ? 0 : impossible_size();
    if (old != NULL && by_chance(4) == 0)
        size = slot->size + by_chance(16); /* mostly in place */
    if (which == 2) {
        new = realloc(old, size);
    } else {
        size_t count = 1 + by_chance(9);
        size = size > 300000 ? size : size / count * count;
        new = size > 300000 ? reallocarray(old, opaque(SIZE_MAX / 4 + 2), 4)
                            : reallocarray(old, size / count, count);
    }
    if (new == NULL && size != 0)
        return;
    slot->address = (uint64_t) new;
    slot->size = size;
}

static void call_function(int which, struct block *slot) {
#ifdef NOTHING_ALIGNED
    which %= 4;
#endif
    if (which == 2 || which == 3) {
        if (by_chance(4) == 0)
            release(slot);
        resize(which, slot);
    } else {
        release(slot);
        slot->address = (uint64_t)new_block(which, &slot->size);
    }
}
