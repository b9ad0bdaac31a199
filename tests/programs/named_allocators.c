/* The functions of allocators that no Debian package has, by the names and arguments that they have
 * in rpmalloc, snmalloc, oneTBB and dlmalloc, over one simple allocator: blocks of powers of two,
 * from a mapping that is made at the start by a system call. Too large blocks are refused. With
 * -DWITHIN without those of dlmalloc, which are only found in an object that doesn't call malloc.
 */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXPORTED __attribute__((noinline, noclone, visibility("default")))

enum { SMALLEST = 6, CLASSES = 25, HEADER = 32 };
static const size_t ARENA_BYTES = (size_t)8 << 30;

struct header {
    struct header *next; /* of a free block */
    void *start;         /* of a block, before what its alignment has skipped */
    size_t size;
    size_t number; /* of its class */
};

static struct header *unused[CLASSES];
static char *arena;
static size_t arena_used;
static volatile int lock;

__attribute__((constructor)) static void map_arena(void) {
    arena = (char *)syscall(SYS_mmap, NULL, ARENA_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena == MAP_FAILED)
        _exit(74);
}

static struct header *take(size_t number) {
    while (__sync_lock_test_and_set(&lock, 1)) {
    }
    struct header *found = unused[number];
    if (found != NULL)
        unused[number] = found->next;
    else if (arena_used + ((size_t)1 << (SMALLEST + number)) <= ARENA_BYTES) {
        found = (struct header *)(arena + arena_used);
        arena_used += (size_t)1 << (SMALLEST + number);
    }
    __sync_lock_release(&lock);
    return found;
}

static void give_back(void *block) {
    if (block == NULL)
        return;
    struct header *header = (struct header *)((char *)block - HEADER), *first = header->start;
    size_t number = header->number;
    while (__sync_lock_test_and_set(&lock, 1)) {
    }
    first->next = unused[number];
    unused[number] = first;
    __sync_lock_release(&lock);
}

static void *allocate(size_t size, size_t alignment) {
    size_t number = 0;
    if (size > (size_t)1 << 28 || alignment > 1 << 20)
        return NULL;
    while ((size_t)1 << (SMALLEST + number) < size + HEADER + alignment)
        number++;
    char *start = (char *)take(number);
    if (start == NULL)
        return NULL;
    uintptr_t block = ((uintptr_t)start + HEADER + alignment - 1) & ~(uintptr_t)(alignment - 1);
    struct header *header = (struct header *)(block - HEADER);
    header->start = start;
    header->size = size;
    header->number = number;
    return (void *)block;
}

static void *cleared(void *block, size_t size) {
    return block == NULL ? NULL : memset(block, 0, size);
}

static void *resize(void *old, size_t size, size_t alignment) {
    void *block = allocate(size, alignment);
    if (block == NULL || old == NULL)
        return block;
    size_t before = ((struct header *)((char *)old - HEADER))->size;
    memcpy(block, old, before < size ? before : size);
    give_back(old);
    return block;
}

static size_t product(size_t count, size_t size) {
    return __builtin_mul_overflow(count, size, &size) ? SIZE_MAX : size;
}

#define ALLOCATES(name, arguments, size, alignment)                                                \
    EXPORTED void *name arguments {                                                                \
        return allocate(size, alignment);                                                          \
    }
#define CLEARS(name, arguments, size, alignment)                                                   \
    EXPORTED void *name arguments {                                                                \
        return cleared(allocate(size, alignment), size);                                           \
    }
#define RESIZES(name, arguments, size, alignment)                                                  \
    EXPORTED void *name arguments {                                                                \
        return resize(p, size, alignment);                                                         \
    }
#define RELEASES(name, arguments)                                                                  \
    EXPORTED void name arguments {                                                                 \
        give_back(p);                                                                              \
    }

ALLOCATES(rpmalloc, (size_t n), n, 16)
CLEARS(rpzalloc, (size_t n), n, 16)
CLEARS(rpcalloc, (size_t count, size_t n), product(count, n), 16)
ALLOCATES(rpaligned_alloc, (size_t a, size_t n), n, a)
CLEARS(rpaligned_calloc, (size_t a, size_t count, size_t n), product(count, n), a)
ALLOCATES(rpmemalign, (size_t a, size_t n), n, a)
RESIZES(rprealloc, (void *p, size_t n), n, 16)
EXPORTED void *rpaligned_realloc(void *p, size_t a, size_t n, size_t old, unsigned flags) {
    (void)old, (void)flags;
    return resize(p, n, a);
}
EXPORTED int rpposix_memalign(void **memptr, size_t a, size_t n) {
    void *block = allocate(n, a);
    if (block == NULL)
        return ENOMEM;
    *memptr = block;
    return 0;
}
RELEASES(rpfree, (void *p))

ALLOCATES(sn_rust_alloc, (size_t a, size_t n), n, a)
CLEARS(sn_rust_alloc_zeroed, (size_t a, size_t n), n, a)
EXPORTED void *sn_rust_realloc(void *p, size_t a, size_t old, size_t n) {
    (void)old;
    return resize(p, n, a);
}
EXPORTED void sn_rust_dealloc(void *p, size_t a, size_t n) {
    (void)a, (void)n;
    give_back(p);
}

ALLOCATES(scalable_malloc, (size_t n), n, 16)
CLEARS(scalable_calloc, (size_t count, size_t n), product(count, n), 16)
ALLOCATES(scalable_aligned_malloc, (size_t n, size_t a), n, a)
RESIZES(scalable_realloc, (void *p, size_t n), n, 16)
RESIZES(scalable_aligned_realloc, (void *p, size_t n, size_t a), n, a)
RELEASES(scalable_free, (void *p))
RELEASES(scalable_aligned_free, (void *p))

#ifndef WITHIN
ALLOCATES(dlmalloc, (size_t n), n, 16)
CLEARS(dlcalloc, (size_t count, size_t n), product(count, n), 16)
RESIZES(dlrealloc, (void *p, size_t n), n, 16)
RELEASES(dlfree, (void *p))
EXPORTED size_t dlmalloc_usable_size(void *p) {
    return p == NULL ? 0 : ((struct header *)((char *)p - HEADER))->size;
}
#endif
