/* The program that a target executes by exec. */
#include "scenario.h"

SCENARIO scenario_after_exec(void) {
    for (size_t i = 0; i < opaque(6); i++)
        KEEP(malloc(60));
}

int main(void) {
    await_go();
    scenario_after_exec();
    done();
    return 0;
}
