/* Calls mimalloc's own functions, which only programs that were written for it call: those that are
 * hooked, and one that isn't, because its size is no argument. Linked to libmimalloc itself, whose
 * headers need not be installed. */
#include "scenario.h"

void *mi_malloc(size_t size);
void *mi_malloc_aligned(size_t size, size_t alignment);
void *mi_zalloc(size_t size);
char *mi_strdup(const char *text);
void mi_free(void *block);

SCENARIO scenario_hooked(void) {
    for (size_t i = 0; i < opaque(100); i++) {
        KEEP(mi_malloc(100));
        KEEP(mi_malloc_aligned(200, 64));
        KEEP(mi_zalloc(300));
        mi_free(mi_zalloc(300));
    }
}

SCENARIO scenario_unhooked(void) {
    for (size_t i = 0; i < opaque(100); i++)
        KEEP(mi_strdup("unseen"));
}

int main(void) {
    await_go();
    scenario_hooked();
    scenario_unhooked();
    done();
    return 0;
}
