/* One of many libraries (many_objects.c). The test gives each copy a different name instead of
 * "allocate_0000" in the symbol table, which no lookup uses. */
#include "scenario.h"

static __attribute__((noinline, noclone)) void allocate_0000(size_t size) {
    KEEP(malloc(size));
    KEEP(size);
}

__attribute__((visibility("default"))) void object_entry(size_t size) {
    allocate_0000(size);
    KEEP(size);
}
