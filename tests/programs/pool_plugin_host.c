/* Loads the library of pool_plugin.c, named by its argument, when a line says so.
 *
 *   load    loads it
 *   work    lets it work
 *   twice   loads it twice and unloads it twice
 */
#include "scenario.h"
#include <dlfcn.h>

static void *loaded(const char *path) {
    void *library = dlopen(path, RTLD_NOW);
    if (library == NULL)
        _exit(81);
    return library;
}

int main(int argc, char **argv) {
    char line[64];
    void *library = NULL;
    unsigned long long bytes = 0, count = 0;

    if (argc < 2)
        _exit(64);
    say("ready\n");
    while (read_line(line, sizeof line)) {
        if (!strcmp(line, "load")) {
            library = loaded(argv[1]);
        } else if (!strcmp(line, "work")) {
            size_t (*work)(void) = (size_t(*)(void))dlsym(library, "plug_work");
            if (work == NULL)
                _exit(82);
            bytes += work();
            count += 5;
        } else if (!strcmp(line, "twice")) {
            void *first = loaded(argv[1]), *second = loaded(argv[1]);
            if (first != second || dlclose(first) || dlclose(second))
                _exit(83);
        }
        char answer[80] = "done ";
        char *end = put_number(answer + 5, bytes);
        *end++ = ' ';
        end = put_number(end, count);
        *end++ = '\n';
        *end = '\0';
        say(answer);
    }
    return 0;
}
