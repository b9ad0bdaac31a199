/* A program that is built twice for leaktrace diff: the second time with one line inserted where
 * it says so, and with more SESSIONS. It says how many bytes and blocks each function keeps. */
#include <stdio.h>

#include "scenario.h"

#ifndef SESSIONS
#define SESSIONS 200
#endif

SCENARIO load_table(void) {
    char *row = malloc(opaque(1000));
    KEEP(row);
}

/* A line is inserted here. */
SCENARIO open_session(void) {
    char *session = malloc(opaque(500));
    KEEP(session);
}

SCENARIO make_pair(void) {
    char *first = malloc(opaque(10));
    KEEP(first);
    char *second = malloc(opaque(20));
    KEEP(second);
}

SCENARIO forget_nothing(void) {
    char *block = malloc(opaque(5000));
    KEEP(block);
    free(block);
}

int main(void) {
    for (int i = 0; i < 100; i++) {
        load_table();
        make_pair();
    }
    for (int i = 0; i < SESSIONS; i++) {
        open_session();
        forget_nothing();
    }
    printf("load_table 100000 100\nopen_session %d %d\n", SESSIONS * 500, SESSIONS);
    return 0;
}
