/* Allocates once and exits. Linked statically with musl, it has malloc and no free. */
#include "scenario.h"

int main(void) {
    KEEP(malloc(1000));
    return 0;
}
