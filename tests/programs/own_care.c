/* An allocator of the program's own, which maps memory for itself when it looks after its heap: in
 * malloc_trim, and in a function that only this calls. A mapping of the program stays. */
#include "own_malloc.h"
#include <sys/mman.h>

enum { OWN_BYTES = 7 << 20, MAPPED_BYTES = 5 << 20 };

static void inside(void) {}

static void map(size_t size) {
    void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED)
        _exit(71);
    KEEP(mapped);
}

__attribute__((noinline, noclone)) void map_own(void) {
    map(OWN_BYTES);
    KEEP(NULL);
}

__attribute__((noinline, noclone)) int malloc_trim(size_t pad) {
    KEEP(pad);
    map_own();
    return 1;
}

SCENARIO scenario_map(void) {
    map(MAPPED_BYTES);
}

int main(void) {
    await_go();
    malloc_trim(0);
    scenario_map();
    done_with_account(MAPPED_BYTES, 1);
    return 0;
}
