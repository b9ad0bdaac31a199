/* Blocks of which it is known whether they are used.
 *
 *   idle
 *
 * The first line of its input makes it allocate BLOCKS blocks by each of these functions, and write
 * to all of them once. From then on a thread writes to those of `used` and `neighbour` ten times a
 * second, and to no others. Those of `neighbour` and `beside` are small, and take turns on the same
 * pages; each block of the others is a page. The line "touch" makes it write to those of
 * `rarely` for a second. It answers each line with "done". */
#include "scenario.h"
#include <pthread.h>
#include <sys/prctl.h>

enum { BLOCKS = 200, PAGE = 4096, SMALL = 200 };

#define BLOCK __attribute__((noinline, noclone)) static char *

static char *of_used[BLOCKS], *of_unused[BLOCKS], *of_rarely[BLOCKS];
static char *of_neighbour[BLOCKS], *of_beside[BLOCKS];

/* `with`: another one for each function, or the compiler makes one of them. */
static inline char *filled(char *block, size_t size, int with) {
    if (block == NULL)
        _exit(71);
    memset(block, with, size);
    KEEP(block);
    return block;
}

BLOCK used(void) {
    return filled(aligned_alloc(PAGE, PAGE), PAGE, 1);
}

BLOCK unused(void) {
    return filled(aligned_alloc(PAGE, PAGE), PAGE, 2);
}

BLOCK rarely(void) {
    return filled(aligned_alloc(PAGE, PAGE), PAGE, 3);
}

BLOCK neighbour(void) {
    return filled(malloc(SMALL), SMALL, 4);
}

BLOCK beside(void) {
    return filled(malloc(SMALL), SMALL, 5);
}

static void write_to(char **blocks, size_t at) {
    for (int number = 0; number < BLOCKS; number++)
        ++*(volatile char *)(blocks[number] + at);
}

static void *use(void *nothing) {
    for (;;) {
        write_to(of_used, PAGE / 2);
        write_to(of_neighbour, SMALL / 2);
        usleep(100 * 1000);
    }
    return nothing;
}

int main(void) {
    /* A huge page is used as a whole. */
    if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) != 0)
        return 72;
    await_go();
    for (int number = 0; number < BLOCKS; number++)
        of_used[number] = used();
    for (int number = 0; number < BLOCKS; number++)
        of_unused[number] = unused();
    for (int number = 0; number < BLOCKS; number++)
        of_rarely[number] = rarely();
    for (int number = 0; number < BLOCKS; number++) {
        of_neighbour[number] = neighbour();
        of_beside[number] = beside();
    }
    pthread_t thread;
    if (pthread_create(&thread, NULL, use, NULL) != 0)
        return 71;
    say("done\n");
    char line[64];
    while (read_line(line, sizeof line)) {
        for (int times = 0; strcmp(line, "touch") == 0 && times < 10; times++) {
            write_to(of_rarely, PAGE / 2);
            usleep(100 * 1000);
        }
        say("done\n");
    }
    return 0;
}
