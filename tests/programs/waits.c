/* Prints "up" and waits, without a call that is hooked. */
#include "scenario.h"

int main(void) {
    say("up\n");
    for (;;)
        pause();
}
