/* Loads the plugin named by its argument after it has been attached to, so that neither its
 * symbols nor its unwind tables were there when tracing began; unloads it after another line. */
#include "scenario.h"
#include <dlfcn.h>

int main(int argc, char **argv) {
    if (argc < 2)
        _exit(64);
    await_go();
    void *plugin = dlopen(argv[1], RTLD_NOW);
    if (plugin == NULL)
        _exit(81);
    void (*leak)(unsigned) = (void (*)(unsigned))dlsym(plugin, "plugin_leak");
    if (leak == NULL)
        _exit(82);
    leak(11);
    done();
    dlclose(plugin);
    done();
    return 0;
}
