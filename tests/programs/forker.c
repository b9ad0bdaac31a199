/* Forks on request; the child allocates and frees as fast as it can until its parent ends.
 * The account is the child's process id, and the blocks that the parent keeps. */
#include "scenario.h"
#include <signal.h>
#include <sys/prctl.h>

SCENARIO scenario_parent(void) {
    for (size_t i = 0; i < opaque(100); i++)
        KEEP(malloc(1000));
}

static void be_a_child(void) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        void *block = malloc(100);
        KEEP(block);
        free(block);
    }
}

int main(void) {
    char line[16];
    unsigned long long kept = 0;
    say("ready\n");
    while (read_line(line, sizeof line)) {
        pid_t child = fork();
        if (child == 0)
            be_a_child();
        scenario_parent();
        char answer[80] = "done ";
        char *end = put_number(answer + 5, (unsigned long long)child);
        *end++ = ' ';
        end = put_number(end, kept += 100);
        *end++ = '\n';
        *end = '\0';
        say(answer);
    }
    return 0;
}
