/* 100,000 calls of each allocation function with arguments by chance, and as many of free. What is
 * left is written to the file argv[1]: address and requested size of each block, two words each. */
#include "scenario.h"
#include <fcntl.h>
#include <malloc.h>

enum { CALLS = 100000, SLOTS = 20000, FUNCTIONS = 9 };

struct block {
    uint64_t address;
    uint64_t size;
};

static struct block blocks[FUNCTIONS * SLOTS];
static uint64_t state = 88172645463325252u;

static uint64_t by_chance(uint64_t limit) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 11) % limit;
}

static size_t any_size(void) {
    return by_chance(64) ? by_chance(512) : by_chance(300000);
}

static size_t any_alignment(void) {
    return (size_t)8 << by_chance(7);
}

static void *posix_aligned(size_t size) {
    void *block = NULL;
    return posix_memalign(&block, any_alignment(), size) ? NULL : block;
}

/* The block that function number `which` hands out, and its size; `old` is an earlier one. */
static void *call(int which, void *old, size_t *size) {
    size_t count;
    *size = any_size();
    switch (which) {
    case 0:
        return malloc(*size);
    case 1:
        count = by_chance(9);
        *size = by_chance(300) * count;
        return count ? calloc(count, *size / count) : calloc(by_chance(9), 0);
    case 2:
        *size += 1; /* 0 releases the block */
        return realloc(old, *size);
    case 3:
        count = 1 + by_chance(9);
        *size = (1 + by_chance(300)) * count;
        return reallocarray(old, *size / count, count);
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

static int is_realloc(int which) {
    return which == 2 || which == 3;
}

/* Whole pages are dear: fewer of them are live. */
static size_t slots_of(int which) {
    return which >= 7 ? 500 : SLOTS;
}

static void try_all(int which) {
    for (int i = 0; i < CALLS; i++) {
        struct block *slot = &blocks[which * SLOTS + by_chance(slots_of(which))];
        if (!is_realloc(which) || by_chance(4) == 0) {
            free((void *)slot->address);
            slot->address = 0;
        }
        void *block = call(which, (void *)slot->address, &slot->size);
        if (block == NULL)
            _exit(71);
        slot->address = (uint64_t)block;
    }
}

static void write_down(const char *path) {
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0)
        _exit(72);
    for (size_t done = 0; done < sizeof blocks;) {
        ssize_t written = write(file, (char *)blocks + done, sizeof blocks - done);
        if (written <= 0)
            _exit(73);
        done += (size_t)written;
    }
    close(file);
}

int main(int count, char **words) {
    await_go();
    for (int which = 0; which < FUNCTIONS; which++)
        try_all(which);
    if (count > 1)
        write_down(words[1]);
    done();
    return 0;
}
