/* Preloaded: a malloc and a realloc that jump to the library's (tail calls), as many
 * wrappers do. Two probed functions of the same name at one stack pointer. */
#include <dlfcn.h>
#include <stddef.h>

static void *(*next_malloc)(size_t);
static void *(*next_realloc)(void *, size_t);
static void (*next_free)(void *);

__attribute__((constructor)) static void look_up(void) {
    next_malloc = (void *(*)(size_t))dlsym(RTLD_NEXT, "malloc");
    next_realloc = (void *(*)(void *, size_t))dlsym(RTLD_NEXT, "realloc");
    next_free = (void (*)(void *))dlsym(RTLD_NEXT, "free");
}

void *malloc(size_t size) {
    if (next_malloc == NULL)
        look_up();
    return next_malloc(size);
}

void *realloc(void *block, size_t size) {
    if (next_realloc == NULL)
        look_up();
    return next_realloc(block, size);
}

void free(void *block) {
    if (next_free == NULL)
        look_up();
    next_free(block);
}
