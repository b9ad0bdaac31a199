/* A plugin that its host loads while it is being traced. */
#include "scenario.h"

__attribute__((visibility("default"))) void plugin_leak(unsigned count) {
    for (unsigned i = 0; i < count; i++)
        KEEP(malloc(90));
}
