/* A library with a pool of its own, which pool_plugin_host.c loads. */
#include <stddef.h>

static char room[1 << 16];
static size_t used;

__attribute__((noinline, noclone)) void *plug_take(size_t size) {
    void *object = room + used;

    used += (size + 16) & ~(size_t)15;
    return used < sizeof room ? object : NULL;
}

__attribute__((noinline, noclone)) void plug_give(void *object) {
    __asm__ volatile("" ::"r"(object) : "memory");
}

/* Returns the bytes that are not given back; of these objects there are 5. */
size_t plug_work(void) {
    size_t kept = 0;

    for (size_t i = 1; i <= 20; i++) {
        void *object = plug_take(10 * i);
        if (i % 4)
            plug_give(object);
        else
            kept += 10 * i;
    }
    return kept;
}
