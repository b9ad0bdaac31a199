/* Loads many small libraries (small_object.c) and has each allocate from its own code.
 *
 *   load FOLDER COUNT   FOLDER/object_0000.so and so on
 *   call SIZE           a block of SIZE bytes from each that was loaded
 */
#include "scenario.h"
#include <dlfcn.h>
#include <stdio.h>

enum { CAPACITY = 1000 };

static void (*entries[CAPACITY])(size_t);
static size_t entry_count;

SCENARIO scenario_each(size_t size) {
    for (size_t i = 0; i < entry_count; i++)
        entries[i](size);
    KEEP(size);
}

static void load(const char *folder, size_t count) {
    char path[4096];
    for (size_t i = 0; i < count && entry_count < CAPACITY; i++) {
        snprintf(path, sizeof path, "%s/object_%04zu.so", folder, i);
        void *object = dlopen(path, RTLD_NOW);
        entries[entry_count] = object ? (void (*)(size_t))dlsym(object, "object_entry") : NULL;
        if (entries[entry_count++] == NULL)
            _exit(81);
    }
}

int main(void) {
    char line[4096];
    say("ready\n");
    while (read_line(line, sizeof line)) {
        char *last = strrchr(line, ' ');
        if (last == NULL)
            _exit(78);
        *last++ = '\0';
        if (strncmp(line, "load ", 5) == 0)
            load(line + 5, strtoul(last, NULL, 10));
        else if (strcmp(line, "call") == 0)
            scenario_each(strtoul(last, NULL, 10));
        else
            _exit(78);
        say("done\n");
    }
    return 0;
}
