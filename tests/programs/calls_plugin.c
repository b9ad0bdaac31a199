/* Linked with a plugin (stack_plugin.c), from which it has a block allocated, and ends. */
#include <stddef.h>

void plugin_entry(size_t size);

int main(void) {
    plugin_entry(1000);
    return 0;
}
