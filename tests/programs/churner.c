/* Allocates and frees without a pause, in a separate thread, to test the effect of leaktrace on a
 * busy process. A line is answered with "done" and the rounds until then. */
#include "scenario.h"
#include <pthread.h>

static volatile unsigned long rounds;

static void *churn(void *unused) {
    (void)unused;
    for (;;) {
        void *block = malloc(64);
        KEEP(block);
        free(block);
        block = calloc(3, 40);
        KEEP(block);
        block = realloc(block, 400);
        KEEP(block);
        free(block);
        rounds++;
    }
    return NULL;
}

int main(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, churn, NULL) != 0)
        _exit(71);
    say("ready\n");
    char line[64];
    while (read_line(line, sizeof line)) {
        char answer[64] = "done ";
        char *end = put_number(answer + 5, rounds);
        *end++ = '\n';
        *end = '\0';
        say(answer);
    }
    _exit(0);
}
