/* Processes that send each other messages, as hackbench does: every message is allocated by the
 * sender and freed by the receiver. Reads "MESSAGES", answers "done NANOSECONDS PAIRS". */
#include "scenario.h"
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

enum { PAIRS = 4, MESSAGE = 100 };

static void send_and_receive(int messages) {
    int ends[2];
    char text[MESSAGE] = "";

    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, ends))
        _exit(71);
    pid_t receiver = fork();
    if (receiver < 0)
        _exit(72);
    if (receiver == 0) {
        for (int i = 0; i < messages; i++)
            if (read(ends[1], text, sizeof text) != MESSAGE)
                _exit(73);
        _exit(0);
    }
    for (int i = 0; i < messages; i++)
        if (write(ends[0], text, sizeof text) != MESSAGE)
            _exit(74);
    waitpid(receiver, NULL, 0);
    _exit(0);
}

static unsigned long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (unsigned long long)now.tv_sec * 1000000000 + (unsigned long long)now.tv_nsec;
}

int main(void) {
    char line[64];

    say("ready\n");
    while (read_line(line, sizeof line)) {
        int messages = atoi(line);
        unsigned long long started = now_ns();
        for (int i = 0; i < PAIRS; i++) {
            pid_t child = fork();
            if (child < 0)
                _exit(75);
            if (child == 0)
                send_and_receive(messages);
        }
        for (int i = 0; i < PAIRS; i++)
            wait(NULL);
        char answer[80] = "done ";
        char *end = put_number(answer + 5, now_ns() - started);
        *end++ = ' ';
        end = put_number(end, PAIRS);
        *end++ = '\n';
        *end = '\0';
        say(answer);
    }
    return 0;
}
