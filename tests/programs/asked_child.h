/* A child that does what its parent is told, for programs that read lines. */
#ifndef ASKED_CHILD_H
#define ASKED_CHILD_H

#include "scenario.h"

static int to_child, from_child;

/* Returns in both. The child reads lines from the parent, which answers with its pid. */
static void fork_child(void) {
    int lines[2], answers[2];
    if (pipe(lines) != 0 || pipe(answers) != 0)
        _exit(75);
    pid_t pid = fork();
    if (pid < 0)
        _exit(76);
    if (pid == 0) {
        dup2(lines[0], 0);
        dup2(answers[1], 1);
        close(lines[1]);
        close(answers[0]);
        return;
    }
    to_child = lines[1];
    from_child = answers[0];
    close(lines[0]);
    close(answers[1]);
    print_result("done", (unsigned long long)pid);
}

/* Pass a line on, and the answer back. */
static void ask_child(const char *line) {
    char answer[1024];
    size_t length = 0;
    if (write(to_child, line, strlen(line)) < 0 || write(to_child, "\n", 1) < 0)
        _exit(77);
    while (length + 1 < sizeof answer && read(from_child, &answer[length], 1) == 1)
        if (answer[length++] == '\n')
            break;
    answer[length] = '\0';
    say(answer);
}

#endif
