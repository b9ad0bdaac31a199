/* Maps files on command, and allocates from libc. Each command is answered with "done".
 *
 *   map PATH            the file, readable and executable; nothing of it is ever executed
 *   load PATH           as a library, with dlopen(3); nothing of it is ever called
 *   malloc COUNT SIZE   allocate and keep
 */
#include "scenario.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

SCENARIO scenario_libc(size_t count, size_t size) {
    for (size_t i = 0; i < count; i++)
        KEEP(malloc(size));
    KEEP(size);
}

static void map(const char *path) {
    struct stat status;
    int file = open(path, O_RDONLY);
    if (file < 0 || fstat(file, &status) != 0)
        _exit(80);
    size_t size = (size_t)status.st_size;
    if (mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0) == MAP_FAILED)
        _exit(81);
    close(file);
}

int main(void) {
    char line[4096], *end;
    say("ready\n");
    while (read_line(line, sizeof line)) {
        if (strncmp(line, "map ", 4) == 0) {
            map(line + 4);
        } else if (strncmp(line, "load ", 5) == 0) {
            if (dlopen(line + 5, RTLD_NOW) == NULL)
                _exit(82);
        } else if (strncmp(line, "malloc ", 7) == 0) {
            size_t count = strtoul(line + 7, &end, 10);
            scenario_libc(count, strtoul(end, NULL, 10));
        } else {
            _exit(78);
        }
        say("done\n");
    }
    return 0;
}
