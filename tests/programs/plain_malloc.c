/* A program's own malloc, in C, that does nothing special: beneath limited.cpp. */
#include "own_malloc.h"

static void inside(void) {}
