/* A server that forgets some of its sessions, and keeps others in a list that only grows. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct session {
    struct session *next;
    char *buffer;
};

static struct session *open_sessions;

__attribute__((noinline)) static struct session *begin_session(void) {
    struct session *session = malloc(sizeof *session);
    session->next = NULL;
    session->buffer = malloc(100);
    memset(session->buffer, 0, 100);
    return session;
}

/* Should put it into the list, or free it. */
__attribute__((noinline)) static void fail_login(void) {
    struct session *session = begin_session();
    session->buffer[0] = 'x';
}

__attribute__((noinline)) static void log_in(void) {
    struct session *session = begin_session();
    session->next = open_sessions;
    open_sessions = session;
}

int main(void) {
    for (;;) {
        log_in();
        fail_login();
        usleep(10000);
    }
}
