/* libadd.so: adds two numbers, and remembers each sum for a statement that is never made. */
#include "add.h"

#include <stdlib.h>

struct entry {
    struct entry *before;
    int sum;
    char note[1000];
};

static struct entry *history;

int add(int a, int b) {
    struct entry *entry = malloc(sizeof *entry);

    if (!entry)
        abort();
    entry->before = history;
    entry->sum = a + b;
    history = entry;
    return entry->sum;
}
