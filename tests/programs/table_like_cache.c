/* A table of the program's that has the size of a cache of malloc's for a thread, and points to
 * blocks as one does. */
#include "scenario.h"

struct table {
    unsigned short counts[64];
    void **slots[64];
};

static struct table *volatile table;

int main(void) {
    table = calloc(1, sizeof *table + 8);
    void **node = calloc(1, 24);
    node[0] = malloc(100000);
    memset(node[0], 1, 100000);
    table->slots[0] = node;
    done();
    return 0;
}
