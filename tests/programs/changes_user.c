/* Becomes another user's process, in a session of its own, and exits. */
#include "scenario.h"

int main(void) {
    KEEP(malloc(1000));
    setsid();
    return setresuid(65534, 65534, 65534);
}
