/* Executes itself again and again, a few hundred times a second, and says after how many times it
 * is "ready"; then it does its work. The argument is how many are left. */
#include "scenario.h"

SCENARIO scenario_after_storm(void) {
    for (size_t i = 0; i < opaque(6); i++)
        KEEP(malloc(60));
}

int main(int argc, char **argv) {
    int left = argc > 1 ? atoi(argv[1]) : 0;
    char number[24];

    KEEP(malloc(50));
    if (argc > 2) { /* the first one of all: "storm N wait" */
        await_go();
        argv[2] = NULL;
    }
    if (left > 0) {
        char *words[] = {argv[0], number, NULL};
        put_number(number, (unsigned)left - 1);
        execv(argv[0], words);
        _exit(72);
    }
    await_go();
    scenario_after_storm();
    done();
    return 0;
}
