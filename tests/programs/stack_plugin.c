/* A plugin for stack_plugins.c, built with different NAMEs: NAME_outer -> NAME_inner -> malloc.
 * FRAME_BYTES gives each build frames of a different size, so that the unwind tables of one are
 * wrong for the other. */
#include "scenario.h"

#define JOIN_(name, suffix) name##suffix
#define JOIN(name, suffix) JOIN_(name, suffix)

SCENARIO JOIN(NAME, _inner)(size_t size) {
    char room[FRAME_BYTES];
    KEEP(room);
    KEEP(malloc(size));
    KEEP(room);
}

SCENARIO JOIN(NAME, _outer)(size_t size) {
    JOIN(NAME, _inner)(size);
    KEEP(size);
}

__attribute__((visibility("default"))) void plugin_entry(size_t size) {
    JOIN(NAME, _outer)(size);
    KEEP(size);
}
