/* A program's own malloc, in C, for refusing.cpp: exceptions pass through it (-fexceptions). */
#include "own_malloc.h"

void refuse_now_and_then(void);

static void inside(void) {
    refuse_now_and_then();
}
