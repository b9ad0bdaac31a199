/* Linked with a plugin (stack_plugin.c), which allocates a block for it, and exits. */
#include <stddef.h>

void plugin_entry(size_t size);

int main(void) {
    plugin_entry(1000);
    return 0;
}
