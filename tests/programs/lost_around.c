/* Blocks to which only memory without a record points: older blocks, of which some are lost, and
 * freed ones. Prints "ready" when the older blocks are there; then, for each function,
 * "truth NAME DEFINITE INDIRECT POSSIBLE REACHABLE" in blocks, and "done". */
#include "scenario.h"

enum { COUNT = 20, SIZE = 72 };

static void **volatile held_before, **volatile lost_before;

/* Zeros: what was there before is no pointer any more. */
static void *block(size_t size) {
    void *found = malloc(size);
    if (found == NULL)
        _exit(71);
    memset(found, 0, size);
    KEEP(found);
    return found;
}

static void truth(const char *name, const char *counts) {
    say("truth ");
    say(name);
    say(counts);
}

SCENARIO kept_by_older(void) {
    for (int i = 0; i < COUNT; i++)
        held_before[i] = block(SIZE);
    truth("kept_by_older", " 0 0 0 20\n");
}

SCENARIO lost_with_older(void) {
    for (int i = 0; i < COUNT; i++)
        lost_before[i] = block(SIZE);
    lost_before = NULL;
    truth("lost_with_older", " 0 20 0 0\n");
}

SCENARIO lost_in_freed(void) {
    void **holder = block(2000);
    for (int i = 0; i < COUNT; i++)
        holder[10 + i] = block(SIZE);
    free(holder);
    truth("lost_in_freed", " 20 0 0 0\n");
}

SCENARIO clear_stack(void) {
    volatile char room[8192];
    memset((char *)room, 0, sizeof room);
    KEEP(room);
}

int main(void) {
    held_before = block(COUNT * sizeof(void *));
    lost_before = block(COUNT * sizeof(void *));
    await_go();
    kept_by_older();
    lost_with_older();
    lost_in_freed();
    clear_stack();
    done();
    return 0;
}
