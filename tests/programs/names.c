/* Symbol names that are no plain C identifiers: letters beyond ASCII (memleak crashes on them). A
 * test also renames the second function to one with terminal control codes. */
#include "scenario.h"

SCENARIO leak_letters(void) __asm__("größe_λ_漏れ");
SCENARIO leak_letters(void) {
    for (size_t i = 0; i < opaque(3); i++)
        KEEP(malloc(70));
}

SCENARIO leak_control(void) {
    for (size_t i = 0; i < opaque(3); i++)
        KEEP(malloc(71));
}

int main(void) {
    await_go();
    leak_letters();
    leak_control();
    done();
    return 0;
}
