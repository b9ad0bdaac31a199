/* Starts other programs in the ways that share its memory until they do (vfork, posix_spawn):
 * those children don't count for the target, whose figures stay exact. */
#include "scenario.h"
#include <spawn.h>
#include <sys/wait.h>

extern char **environ;

static void wait_for(pid_t child) {
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        _exit(76);
}

SCENARIO scenario_spawn(char *program) {
    char *arguments[] = {program, NULL};
    for (size_t i = 0; i < opaque(3); i++) {
        pid_t child = -1;
        if (posix_spawn(&child, program, NULL, NULL, arguments, environ) != 0)
            _exit(83);
        wait_for(child);
        KEEP(malloc(180));
    }
}

SCENARIO scenario_vfork(char *program) {
    for (size_t i = 0; i < opaque(3); i++) {
        pid_t child = vfork();
        if (child == 0) {
            execl(program, program, (char *)NULL);
            _exit(77);
        }
        wait_for(child);
        KEEP(malloc(190));
    }
}

int main(int argc, char **argv) {
    if (argc < 2)
        _exit(64);
    await_go();
    scenario_spawn(argv[1]);
    scenario_vfork(argv[1]);
    done();
    return 0;
}
