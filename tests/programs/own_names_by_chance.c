/* Functions that only one allocator has, together with the C library's, called with random
 * arguments: see by_chance.h. One of -DMIMALLOC, -DJEMALLOC, -DTCMALLOC, -DOTHERS (those of
 * named_allocators.c; with -DWITHIN they are in this program). With -DPREFIX=_rjem_ jemalloc's
 * functions have that prefix. */
#include "scenario.h"

/* They may change the size that they request. */
typedef void *(*allocate_by)(size_t *bytes);
typedef int (*resize_by)(void **block, size_t *bytes); /* whether it has that size now */
typedef void (*release_by)(void *block, size_t bytes);

#define ALLOCATE(name, call)                                                                       \
    static void *allocate_##name(size_t *bytes) {                                                  \
        size_t n = *bytes, count = n % 8 ? n : n / 8, size = n % 8 ? 1 : 8;                        \
        (void)count, (void)size;                                                                   \
        return call;                                                                               \
    }
#define RESIZE(name, call)                                                                         \
    static int resize_##name(void **block, size_t *bytes) {                                        \
        size_t n = *bytes, count = n % 8 ? n : n / 8, size = n % 8 ? 1 : 8;                        \
        void *p = *block, *resized = call;                                                         \
        (void)count, (void)size;                                                                   \
        if (resized != NULL)                                                                       \
            *block = resized;                                                                      \
        return resized != NULL;                                                                    \
    }
#define RELEASE(name, call)                                                                        \
    static void release_##name(void *p, size_t n) {                                                \
        (void)n;                                                                                   \
        call;                                                                                      \
    }

static uint64_t by_chance(uint64_t limit);

static size_t alignment(void) {
    return (size_t)16 << by_chance(6);
}

static inline size_t possible(size_t *bytes) { /* where failing would end the process */
    return *bytes > 1 << 20 ? *bytes = 1000 : *bytes;
}

static inline size_t at_least_1(size_t *bytes) {
    return *bytes == 0 ? *bytes = 1 : *bytes;
}

ALLOCATE(malloc, malloc(n))
ALLOCATE(calloc, calloc(count, size))

#ifdef MIMALLOC
typedef void heap;
void *mi_malloc(size_t), *mi_zalloc(size_t), *mi_calloc(size_t, size_t);
void *mi_mallocn(size_t, size_t), *mi_malloc_small(size_t), *mi_zalloc_small(size_t);
void *mi_malloc_aligned(size_t, size_t), *mi_malloc_aligned_at(size_t, size_t, size_t);
void *mi_zalloc_aligned(size_t, size_t), *mi_calloc_aligned(size_t, size_t, size_t);
void *mi_calloc_aligned_at(size_t, size_t, size_t, size_t);
void *mi_new(size_t), *mi_new_n(size_t, size_t), *mi_new_aligned(size_t, size_t);
void *mi_new_nothrow(size_t), *mi_memalign(size_t, size_t), *mi_aligned_alloc(size_t, size_t);
void *mi_valloc(size_t), *mi_pvalloc(size_t), *mi_heap_alloc_new(heap *, size_t);
int mi_posix_memalign(void **, size_t, size_t), mi_reallocarr(void *, size_t, size_t);
void *mi_heap_malloc(heap *, size_t), *mi_heap_zalloc(heap *, size_t);
void *mi_heap_calloc(heap *, size_t, size_t), *mi_heap_mallocn(heap *, size_t, size_t);
void *mi_heap_malloc_small(heap *, size_t), *mi_heap_malloc_aligned(heap *, size_t, size_t);
void *mi_heap_calloc_aligned(heap *, size_t, size_t, size_t);
void *mi_realloc(void *, size_t), *mi_reallocn(void *, size_t, size_t);
void *mi_reallocf(void *, size_t), *mi_rezalloc(void *, size_t);
void *mi_recalloc(void *, size_t, size_t), *mi_reallocarray(void *, size_t, size_t);
void *mi_realloc_aligned(void *, size_t, size_t), *mi_rezalloc_aligned(void *, size_t, size_t);
void *mi_recalloc_aligned(void *, size_t, size_t, size_t);
void *mi_aligned_recalloc(void *, size_t, size_t, size_t), *mi_expand(void *, size_t);
void *mi_heap_realloc(heap *, void *, size_t), *mi_heap_reallocn(heap *, void *, size_t, size_t);
void *mi_heap_reallocf(heap *, void *, size_t), *mi_heap_rezalloc(heap *, void *, size_t);
void *mi_heap_recalloc(heap *, void *, size_t, size_t);
void *mi_heap_realloc_aligned(heap *, void *, size_t, size_t);
void *mi_heap_recalloc_aligned(heap *, void *, size_t, size_t, size_t);
void *mi_new_realloc(void *, size_t), *mi_new_reallocn(void *, size_t, size_t);
void mi_free(void *), mi_free_size(void *, size_t), mi_cfree(void *);
void mi_free_size_aligned(void *, size_t, size_t), mi_free_aligned(void *, size_t);
heap *mi_heap_get_default(void) __attribute__((weak)); /* until 2 */
heap *mi_heap_main(void) __attribute__((weak));        /* since 3 */

static heap *here(void) {
    return mi_heap_get_default ? mi_heap_get_default() : mi_heap_main();
}

static size_t small(size_t *bytes) {
    return *bytes > 1024 ? *bytes = 1024 : *bytes;
}

static void *posix_memalign_of(size_t n) {
    void *block = NULL;
    return mi_posix_memalign(&block, alignment(), n) == 0 ? block : NULL;
}

ALLOCATE(mi_malloc, mi_malloc(n))
ALLOCATE(mi_zalloc, mi_zalloc(n))
ALLOCATE(mi_calloc, mi_calloc(count, size))
ALLOCATE(mi_mallocn, mi_mallocn(count, size))
ALLOCATE(mi_malloc_small, mi_malloc_small(small(bytes)))
ALLOCATE(mi_zalloc_small, mi_zalloc_small(small(bytes)))
ALLOCATE(mi_malloc_aligned, mi_malloc_aligned(n, alignment()))
ALLOCATE(mi_malloc_aligned_at, mi_malloc_aligned_at(n, alignment(), 8))
ALLOCATE(mi_zalloc_aligned, mi_zalloc_aligned(n, alignment()))
ALLOCATE(mi_calloc_aligned, mi_calloc_aligned(count, size, alignment()))
ALLOCATE(mi_calloc_aligned_at, mi_calloc_aligned_at(count, size, alignment(), 8))
ALLOCATE(mi_new, mi_new(possible(bytes)))
ALLOCATE(mi_new_n, (n = possible(bytes), mi_new_n(n, 1)))
ALLOCATE(mi_new_aligned, mi_new_aligned(possible(bytes), alignment()))
ALLOCATE(mi_new_nothrow, mi_new_nothrow(possible(bytes)))
ALLOCATE(mi_posix_memalign, posix_memalign_of(n))
ALLOCATE(mi_memalign, mi_memalign(alignment(), n))
ALLOCATE(mi_aligned_alloc, mi_aligned_alloc(alignment(), n))
ALLOCATE(mi_valloc, mi_valloc(possible(bytes)))
ALLOCATE(mi_pvalloc, mi_pvalloc(possible(bytes)))
ALLOCATE(mi_heap_malloc, mi_heap_malloc(here(), n))
ALLOCATE(mi_heap_zalloc, mi_heap_zalloc(here(), n))
ALLOCATE(mi_heap_calloc, mi_heap_calloc(here(), count, size))
ALLOCATE(mi_heap_mallocn, mi_heap_mallocn(here(), count, size))
ALLOCATE(mi_heap_malloc_small, mi_heap_malloc_small(here(), small(bytes)))
ALLOCATE(mi_heap_malloc_aligned, mi_heap_malloc_aligned(here(), n, alignment()))
ALLOCATE(mi_heap_calloc_aligned, mi_heap_calloc_aligned(here(), count, size, alignment()))
ALLOCATE(mi_heap_alloc_new, mi_heap_alloc_new(here(), possible(bytes)))
RESIZE(mi_realloc, mi_realloc(p, n))
RESIZE(mi_reallocn, mi_reallocn(p, count, size))
RESIZE(mi_rezalloc, mi_rezalloc(p, n))
RESIZE(mi_recalloc, mi_recalloc(p, count, size))
RESIZE(mi_reallocarray, mi_reallocarray(p, count, size))
RESIZE(mi_realloc_aligned, mi_realloc_aligned(p, n, alignment()))
RESIZE(mi_rezalloc_aligned, mi_rezalloc_aligned(p, n, alignment()))
RESIZE(mi_recalloc_aligned, mi_recalloc_aligned(p, count, size, alignment()))
RESIZE(mi_aligned_recalloc, mi_aligned_recalloc(p, count, size, alignment()))
RESIZE(mi_heap_realloc, mi_heap_realloc(here(), p, n))
RESIZE(mi_heap_reallocn, mi_heap_reallocn(here(), p, count, size))
RESIZE(mi_heap_rezalloc, mi_heap_rezalloc(here(), p, n))
RESIZE(mi_heap_recalloc, mi_heap_recalloc(here(), p, count, size))
RESIZE(mi_heap_realloc_aligned, mi_heap_realloc_aligned(here(), p, n, alignment()))
RESIZE(mi_heap_recalloc_aligned, mi_heap_recalloc_aligned(here(), p, count, size, alignment()))
RESIZE(mi_expand, mi_expand(p, n))
RESIZE(mi_new_realloc, mi_new_realloc(p, possible(bytes)))
RELEASE(mi_free, mi_free(p))
RELEASE(mi_free_size, mi_free_size(p, n))
RELEASE(mi_free_size_aligned, mi_free_size_aligned(p, n, 1))
RELEASE(mi_free_aligned, mi_free_aligned(p, 1))
RELEASE(mi_cfree, mi_cfree(p))

static int resize_mi_reallocf(void **block, size_t *bytes) { /* releases the block if it fails */
    *block = mi_reallocf(*block, *bytes);
    return *block != NULL;
}

static int resize_mi_heap_reallocf(void **block, size_t *bytes) {
    *block = mi_heap_reallocf(here(), *block, *bytes);
    return *block != NULL;
}

static int resize_mi_reallocarr(void **block, size_t *bytes) {
    return mi_reallocarr(block, *bytes, 1) == 0;
}

static allocate_by allocating[] = {
    allocate_malloc,
    allocate_calloc,
    allocate_mi_malloc,
    allocate_mi_zalloc,
    allocate_mi_calloc,
    allocate_mi_mallocn,
    allocate_mi_malloc_small,
    allocate_mi_zalloc_small,
    allocate_mi_malloc_aligned,
    allocate_mi_malloc_aligned_at,
    allocate_mi_zalloc_aligned,
    allocate_mi_calloc_aligned,
    allocate_mi_calloc_aligned_at,
    allocate_mi_new,
    allocate_mi_new_n,
    allocate_mi_new_aligned,
    allocate_mi_new_nothrow,
    allocate_mi_posix_memalign,
    allocate_mi_memalign,
    allocate_mi_aligned_alloc,
    allocate_mi_valloc,
    allocate_mi_pvalloc,
    allocate_mi_heap_malloc,
    allocate_mi_heap_zalloc,
    allocate_mi_heap_calloc,
    allocate_mi_heap_mallocn,
    allocate_mi_heap_malloc_small,
    allocate_mi_heap_malloc_aligned,
    allocate_mi_heap_calloc_aligned,
    allocate_mi_heap_alloc_new,
};
static resize_by resizing[] = {
    resize_mi_realloc,
    resize_mi_reallocn,
    resize_mi_reallocf,
    resize_mi_rezalloc,
    resize_mi_recalloc,
    resize_mi_reallocarray,
    resize_mi_realloc_aligned,
    resize_mi_rezalloc_aligned,
    resize_mi_recalloc_aligned,
    resize_mi_aligned_recalloc,
    resize_mi_heap_realloc,
    resize_mi_heap_reallocn,
    resize_mi_heap_reallocf,
    resize_mi_heap_rezalloc,
    resize_mi_heap_recalloc,
    resize_mi_heap_realloc_aligned,
    resize_mi_heap_recalloc_aligned,
    resize_mi_expand,
    resize_mi_new_realloc,
    resize_mi_reallocarr,
};
static release_by releasing[] = {
    release_mi_free,         release_mi_free_size, release_mi_free_size_aligned,
    release_mi_free_aligned, release_mi_cfree,
};
#endif

#ifdef JEMALLOC
#ifndef PREFIX
#define PREFIX
#endif
#define JOINED(prefix, name) prefix##name
#define WITH(prefix, name) JOINED(prefix, name)
#define je(name) WITH(PREFIX, name)
#define FLAG_ZERO 0x40
void *je(mallocx)(size_t, int), *je(rallocx)(void *, size_t, int), *je(malloc)(size_t);
void *je(calloc)(size_t, size_t), *je(realloc)(void *, size_t);
void *je(aligned_alloc)(size_t, size_t);
int je(posix_memalign)(void **, size_t, size_t);
size_t je(xallocx)(void *, size_t, size_t, int), je(sallocx)(const void *, int);
void je(dallocx)(void *, int), je(sdallocx)(void *, size_t, int), je(free)(void *);

static int log_of(size_t alignment) {
    return __builtin_ctzl(alignment);
}

static void *posix_memalign_of(size_t n) {
    void *block = NULL;
    return je(posix_memalign)(&block, alignment(), n) == 0 ? block : NULL;
}

ALLOCATE(je_malloc, je(malloc)(n))
ALLOCATE(je_calloc, je(calloc)(count, size))
ALLOCATE(mallocx, je(mallocx)(at_least_1(bytes), 0))
ALLOCATE(mallocx_zero, je(mallocx)(at_least_1(bytes), FLAG_ZERO))
ALLOCATE(mallocx_aligned, je(mallocx)(at_least_1(bytes), log_of(alignment())))
ALLOCATE(posix_memalign, posix_memalign_of(n))
ALLOCATE(aligned_alloc, je(aligned_alloc)(alignment(), n))
RESIZE(rallocx, p == NULL ? NULL : je(rallocx)(p, at_least_1(bytes), 0))
RESIZE(realloc, je(realloc)(p, at_least_1(bytes)))
RELEASE(free, je(free)(p))
RELEASE(dallocx, if (p) je(dallocx)(p, 0))

static int resize_xallocx(void **block, size_t *bytes) {
    if (*block == NULL || *bytes == 0 || *bytes > 1 << 30)
        return 0;
    return je(xallocx)(*block, *bytes, 0, 0) >= *bytes;
}

static int resize_xallocx_extra(void **block, size_t *bytes) {
    if (*block == NULL || *bytes == 0 || *bytes > 1 << 30)
        return 0;
    size_t wanted = *bytes, most = wanted + 3000, now = je(xallocx)(*block, wanted, 3000, 0);
    *bytes = now < most ? now : most;
    return now >= wanted;
}

RELEASE(sdallocx, if (p) je(sdallocx)(p, je(sallocx)(p, 0), 0))

static allocate_by allocating[] = {
    allocate_malloc,          allocate_calloc,         allocate_je_malloc,
    allocate_je_calloc,       allocate_mallocx,        allocate_mallocx_zero,
    allocate_mallocx_aligned, allocate_posix_memalign, allocate_aligned_alloc,
};
static resize_by resizing[] = {
    resize_rallocx,
    resize_realloc,
    resize_xallocx,
    resize_xallocx_extra,
};
static release_by releasing[] = {release_free, release_dallocx, release_sdallocx};
#endif

#ifdef TCMALLOC
void *tc_malloc(size_t), *tc_calloc(size_t, size_t), *tc_memalign(size_t, size_t);
void *tc_malloc_skip_new_handler(size_t), *tc_valloc(size_t), *tc_pvalloc(size_t);
void *tc_new(size_t), *tc_new_nothrow(size_t), *tc_newarray(size_t), *tc_realloc(void *, size_t);
int tc_posix_memalign(void **, size_t, size_t);
void tc_free(void *), tc_cfree(void *), tc_delete(void *), tc_deletearray(void *);

static void *posix_memalign_of(size_t n) {
    void *block = NULL;
    return tc_posix_memalign(&block, alignment(), n) == 0 ? block : NULL;
}

ALLOCATE(tc_malloc, tc_malloc(n))
ALLOCATE(tc_malloc_skip_new_handler, tc_malloc_skip_new_handler(n))
ALLOCATE(tc_calloc, tc_calloc(count, size))
ALLOCATE(tc_memalign, tc_memalign(alignment(), n))
ALLOCATE(tc_posix_memalign, posix_memalign_of(n))
ALLOCATE(tc_valloc, tc_valloc(possible(bytes)))
ALLOCATE(tc_pvalloc, tc_pvalloc(possible(bytes)))
ALLOCATE(tc_new, tc_new(possible(bytes)))
ALLOCATE(tc_new_nothrow, tc_new_nothrow(n))
ALLOCATE(tc_newarray, tc_newarray(possible(bytes)))
RESIZE(tc_realloc, tc_realloc(p, at_least_1(bytes)))
RELEASE(tc_free, tc_free(p))
RELEASE(tc_cfree, tc_cfree(p))
RELEASE(tc_delete, tc_delete(p))
RELEASE(tc_deletearray, tc_deletearray(p))

static allocate_by allocating[] = {
    allocate_malloc,
    allocate_calloc,
    allocate_tc_malloc,
    allocate_tc_malloc_skip_new_handler,
    allocate_tc_calloc,
    allocate_tc_memalign,
    allocate_tc_posix_memalign,
    allocate_tc_valloc,
    allocate_tc_pvalloc,
    allocate_tc_new,
    allocate_tc_new_nothrow,
    allocate_tc_newarray,
};
static resize_by resizing[] = {resize_tc_realloc};
static release_by releasing[] = {
    release_tc_free,
    release_tc_cfree,
    release_tc_delete,
    release_tc_deletearray,
};
#endif

#ifdef OTHERS
#ifdef WITHIN
#include "named_allocators.c"
#else
void *rpmalloc(size_t), *rpzalloc(size_t), *rpcalloc(size_t, size_t);
void *rpaligned_alloc(size_t, size_t), *rpaligned_calloc(size_t, size_t, size_t);
void *rpmemalign(size_t, size_t), *rprealloc(void *, size_t);
void *rpaligned_realloc(void *, size_t, size_t, size_t, unsigned);
int rpposix_memalign(void **, size_t, size_t);
void *sn_rust_alloc(size_t, size_t), *sn_rust_alloc_zeroed(size_t, size_t);
void *sn_rust_realloc(void *, size_t, size_t, size_t), *scalable_malloc(size_t);
void *scalable_calloc(size_t, size_t), *scalable_aligned_malloc(size_t, size_t);
void *scalable_realloc(void *, size_t), *scalable_aligned_realloc(void *, size_t, size_t);
void *dlmalloc(size_t), *dlcalloc(size_t, size_t), *dlrealloc(void *, size_t);
void rpfree(void *), sn_rust_dealloc(void *, size_t, size_t), scalable_free(void *);
void scalable_aligned_free(void *), dlfree(void *);
#endif

static void *posix_memalign_of(size_t n) {
    void *block = NULL;
    return rpposix_memalign(&block, alignment(), n) == 0 ? block : NULL;
}

ALLOCATE(rpmalloc, rpmalloc(n))
ALLOCATE(rpzalloc, rpzalloc(n))
ALLOCATE(rpcalloc, rpcalloc(count, size))
ALLOCATE(rpaligned_alloc, rpaligned_alloc(alignment(), n))
ALLOCATE(rpaligned_calloc, rpaligned_calloc(alignment(), count, size))
ALLOCATE(rpmemalign, rpmemalign(alignment(), n))
ALLOCATE(rpposix_memalign, posix_memalign_of(n))
ALLOCATE(sn_rust_alloc, sn_rust_alloc(alignment(), n))
ALLOCATE(sn_rust_alloc_zeroed, sn_rust_alloc_zeroed(alignment(), n))
ALLOCATE(scalable_malloc, scalable_malloc(n))
ALLOCATE(scalable_calloc, scalable_calloc(count, size))
ALLOCATE(scalable_aligned_malloc, scalable_aligned_malloc(n, alignment()))
RESIZE(rprealloc, rprealloc(p, n))
RESIZE(rpaligned_realloc, rpaligned_realloc(p, alignment(), n, 0, 0))
RESIZE(sn_rust_realloc, sn_rust_realloc(p, alignment(), 0, n))
RESIZE(scalable_realloc, scalable_realloc(p, n))
RESIZE(scalable_aligned_realloc, scalable_aligned_realloc(p, n, alignment()))
RELEASE(rpfree, rpfree(p))
RELEASE(sn_rust_dealloc, sn_rust_dealloc(p, 16, n))
RELEASE(scalable_free, scalable_free(p))
RELEASE(scalable_aligned_free, scalable_aligned_free(p))
#ifndef WITHIN
ALLOCATE(dlmalloc, dlmalloc(n))
ALLOCATE(dlcalloc, dlcalloc(count, size))
RESIZE(dlrealloc, dlrealloc(p, n))
RELEASE(dlfree, dlfree(p))
#endif

static allocate_by allocating[] = {
    allocate_malloc,
    allocate_calloc,
    allocate_rpmalloc,
    allocate_rpzalloc,
    allocate_rpcalloc,
    allocate_rpaligned_alloc,
    allocate_rpaligned_calloc,
    allocate_rpmemalign,
    allocate_rpposix_memalign,
    allocate_sn_rust_alloc,
    allocate_sn_rust_alloc_zeroed,
    allocate_scalable_malloc,
    allocate_scalable_calloc,
    allocate_scalable_aligned_malloc,
#ifndef WITHIN
    allocate_dlmalloc,
    allocate_dlcalloc,
#endif
};
static resize_by resizing[] = {
    resize_rprealloc,        resize_rpaligned_realloc,        resize_sn_rust_realloc,
    resize_scalable_realloc, resize_scalable_aligned_realloc,
#ifndef WITHIN
    resize_dlrealloc,
#endif
};
static release_by releasing[] = {
    release_rpfree, release_sn_rust_dealloc, release_scalable_free, release_scalable_aligned_free,
#ifndef WITHIN
    release_dlfree,
#endif
};
#endif

enum {
    OF_C = 2, /* the first in the list are the C library's */
    ALLOCATING = sizeof allocating / sizeof *allocating,
    RESIZING = sizeof resizing / sizeof *resizing,
    RELEASING = sizeof releasing / sizeof *releasing,
    FUNCTIONS = ALLOCATING + RESIZING,
};
#include "by_chance.h"

/* Only blocks of the C library's have the kind 1: free releases them. */
static void release(struct block *slot) {
    void *block = (void *)slot->address;
    if (slot->kind == 1)
        free(block);
    else
        releasing[by_chance(RELEASING)](block, slot->size);
    slot->address = 0;
}

static int takes_pages(int which) {
    (void)which;
    return 0;
}

static void call_function(int which, struct block *slot) {
    size_t bytes = by_chance(300) ? any_size() : impossible_size();
    if (which < ALLOCATING) {
        release(slot);
        slot->address = (uint64_t)allocating[which](&bytes);
        slot->size = bytes;
        slot->kind = which < OF_C;
        return;
    }
    if (slot->kind == 1)
        release(slot);
    void *block = (void *)slot->address;
    if (resizing[which - ALLOCATING](&block, &bytes))
        slot->size = bytes;
    slot->address = (uint64_t)block;
    slot->kind = 0;
}
