/*
 * Keeps and touches 1 MiB after the other, without end, and prints how many it has.
 */
#include "scenario.h"

static SCENARIO scenario_keep(void) {
    char *block = malloc(1 << 20);
    memset(block, 1, 1 << 20);
    KEEP(block);
}

int main(void) {
    char line[24];
    for (unsigned long long count = 1;; count++) {
        scenario_keep();
        *put_number(line, count) = '\n';
        size_t length = strcspn(line, "\n");
        line[length + 1] = '\0';
        say(line);
    }
}
