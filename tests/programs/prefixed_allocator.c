/* A library (-DLIBRARY) that allocates memory by functions that nedmalloc has, or, with -DJEMALLOC,
 * a build of jemalloc with a prefix (-DPLUGIN: as tests/programs/plugin_host.c calls it), and a
 * program (-DPROGRAM) that calls them and never malloc; both in one with both. The library makes
 * the system call mmap(2) itself. */
#include "scenario.h"
#include <sys/mman.h>
#include <sys/syscall.h>

#ifdef JEMALLOC
#define NAMED(name) _rjem_##name
#else
#define NAMED(name) ned##name
#endif
#define EXPORTED __attribute__((noinline, noclone, visibility("default")))

#ifdef LIBRARY
static char *chunk;
static size_t left;

static void *take(size_t size) {
    size_t room = (size + 63) & ~(size_t)63;
    if (room > left) {
        left = room + (1 << 20);
        chunk = (char *)syscall(SYS_mmap, NULL, left, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (chunk == MAP_FAILED)
            _exit(72);
    }
    left -= room;
    return chunk + left;
}

EXPORTED void *NAMED(malloc)(size_t size) {
    return take(size);
}

EXPORTED void NAMED(free)(void *block) {
    KEEP(block);
}

#ifdef JEMALLOC
EXPORTED void *_rjem_mallocx(size_t size, int flags) {
    KEEP(flags);
    return take(size);
}

EXPORTED void *_rjem_rallocx(void *block, size_t size, int flags) {
    KEEP(block);
    return _rjem_mallocx(size, flags);
}
#endif

#ifdef PLUGIN
EXPORTED void plugin_leak(unsigned count) {
    while (count-- > 0)
        KEEP(NAMED(malloc)(1000));
}
#endif
#endif

#ifdef PROGRAM
void *NAMED(malloc)(size_t size);
void NAMED(free)(void *block);

SCENARIO scenario_prefixed(size_t count) {
    for (size_t i = 0; i < count; i++) {
        char *block = NAMED(malloc)(1000);
        memset(block, 1, 1000);
        KEEP(block);
    }
    NAMED(free)(NAMED(malloc)(1000));
}

int main(void) {
    await_go();
    scenario_prefixed(opaque(2000));
    done();
    return 0;
}
#endif
