/*
 * A server that forks its workers at the start, as nginx, PostgreSQL and gunicorn do. Each worker
 * remembers the sessions that it has served, and never forgets one.
 *
 * The parent holds a table of 1,000,000 bytes, which the workers inherit. The workers answer a
 * request each tenth of a second; the first one gets four times as many.
 *
 *   prefork [WORKERS]    as many workers (4), until standard input ends
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { TABLE_BYTES = 1000000, SESSION_BYTES = 2000, MOST_WORKERS = 64 };

struct session {
    struct session *next;
    char name[SESSION_BYTES - sizeof(struct session *)];
};

static struct session *sessions;
static char *table;

static __attribute__((noinline)) void remember_session(const char *name) {
    struct session *session = malloc(sizeof(*session));
    if (session == NULL)
        abort();
    snprintf(session->name, sizeof(session->name), "%s", name);
    session->next = sessions;
    sessions = session;
}

static __attribute__((noinline)) void handle_request(int number) {
    char *answer = malloc(4000);
    if (answer == NULL)
        abort();
    snprintf(answer, 4000, "session %d: %s", number, table);
    remember_session(answer);
    free(answer);
}

static __attribute__((noreturn)) void work(int requests) {
    const struct timespec pause = {.tv_nsec = 100000000};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int round = 0;; round++) {
        for (int i = 0; i < requests; i++)
            handle_request(round * requests + i);
        nanosleep(&pause, NULL);
    }
}

int main(int argc, char **argv) {
    int workers = argc > 1 ? atoi(argv[1]) : 4;
    char character;

    table = malloc(TABLE_BYTES);
    if (table == NULL || workers < 1 || workers > MOST_WORKERS)
        return 1;
    memset(table, 0, TABLE_BYTES);
    strcpy(table, "welcome");
    for (int i = 0; i < workers; i++) {
        pid_t pid = fork();
        if (pid < 0)
            return 1;
        if (pid == 0)
            work(i == 0 ? 4 : 1);
    }
    while (read(0, &character, 1) == 1)
        continue;
    return 0;
}
