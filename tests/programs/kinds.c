/* bcc's own test of memleak, rewritten: waits for a byte on its standard input, then leaks
 * exactly AMOUNT bytes by one KIND of allocation, and exits. */
#include "scenario.h"
#include <malloc.h>
#include <sys/mman.h>

SCENARIO leak_kind(const char *kind, size_t amount) {
    void *block = NULL;
    if (strcmp(kind, "malloc") == 0)
        block = malloc(amount);
    else if (strcmp(kind, "calloc") == 0)
        block = calloc(amount, 1);
    else if (strcmp(kind, "realloc") == 0)
        block = realloc(malloc(amount / 2), amount);
    else if (strcmp(kind, "posix_memalign") == 0)
        block = posix_memalign(&block, 512, amount) == 0 ? block : NULL;
    else if (strcmp(kind, "valloc") == 0)
        block = valloc(amount);
    else if (strcmp(kind, "memalign") == 0)
        block = memalign(512, amount);
    else if (strcmp(kind, "pvalloc") == 0)
        block = pvalloc(amount);
    else if (strcmp(kind, "aligned_alloc") == 0)
        block = aligned_alloc(512, amount);
    else if (strcmp(kind, "mmap") == 0)
        block = mmap(NULL, amount, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
    if (block == NULL || block == MAP_FAILED)
        _exit(64);
    KEEP(block);
}

int main(int argc, char **argv) {
    char byte;
    if (argc < 3)
        _exit(64);
    (void)!read(0, &byte, 1);
    leak_kind(argv[1], strtoul(argv[2], NULL, 10));
    return 0;
}
