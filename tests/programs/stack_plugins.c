/* Loads and unloads plugins (stack_plugin.c) on command, each answered with "done".
 *
 *   load PATH          answered with "done ADDRESS": that of the plugin's entry
 *   call COUNT SIZE    COUNT blocks of SIZE bytes, allocated by the plugin
 *   unload
 *   namespaces ROUNDS PATH PATH
 *                      as `cycle`, each plugin in a new namespace (dlmopen)
 *   cycle ROUNDS PATH PATH
 *                      ROUNDS times, each plugin in turn: loaded, asked for a block (of 100 bytes
 *                      the first, of 1000 the second), unloaded
 */
#include "scenario.h"
#include <dlfcn.h>

static void *plugin;
static void (*entry)(size_t);

SCENARIO scenario_plugin(size_t count, size_t size) {
    for (size_t i = 0; i < count; i++)
        entry(size);
    KEEP(size);
}

static int in_namespaces;

static void open_plugin(const char *path) {
    plugin = in_namespaces ? dlmopen(LM_ID_NEWLM, path, RTLD_NOW) : dlopen(path, RTLD_NOW);
    entry = plugin ? (void (*)(size_t))dlsym(plugin, "plugin_entry") : NULL;
    if (entry == NULL)
        _exit(81);
}

static void cycle(char *arguments) {
    char *first = NULL;
    size_t rounds = strtoul(arguments, &first, 10);
    first++;
    char *second = strchr(first, ' ');
    *second++ = 0;
    for (size_t i = 0; i < 2 * rounds; i++) {
        open_plugin(i & 1 ? second : first);
        scenario_plugin(1, i & 1 ? 1000 : 100);
        dlclose(plugin);
    }
}

static void load(const char *path) {
    char answer[64] = "done ";
    open_plugin(path);
    char *end = put_number(answer + 5, (uintptr_t)entry);
    memcpy(end, "\n", 2);
    say(answer);
}

int main(void) {
    char line[4096];
    say("ready\n");
    while (read_line(line, sizeof line)) {
        char *rest = strchr(line, ' '), *end = NULL;
        if (strncmp(line, "load ", 5) == 0) {
            load(rest + 1);
            continue;
        }
        if (strncmp(line, "call ", 5) == 0) {
            size_t count = strtoul(rest, &end, 10);
            scenario_plugin(count, strtoul(end, NULL, 10));
        } else if (strncmp(line, "cycle ", 6) == 0) {
            cycle(rest + 1);
        } else if (strncmp(line, "namespaces ", 11) == 0) {
            in_namespaces = 1;
            cycle(rest + 1);
        } else if (strcmp(line, "unload") == 0) {
            dlclose(plugin);
        } else {
            _exit(78);
        }
        say("done\n");
    }
    return 0;
}
