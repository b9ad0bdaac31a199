/* Work that makes the kernel allocate, in numbers that are known: pipes, epoll items, processes,
 * pages, threads. Commands, one per line: "open 500", "close", "epoll 1000", "keep 10", "fork 20",
 * "touch 64", "sockets 500". Answers "done". */
#include "scenario.h"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum { MOST = 4000 };

static int ends[MOST][2];
static int opened;
static pid_t children[MOST];
static int forked;

static void open_pipes(int count) {
    for (int i = 0; i < count && opened < MOST; i++)
        if (pipe(ends[opened++]))
            _exit(71);
}

static void close_pipes(void) {
    while (opened > 0) {
        opened--;
        close(ends[opened][0]);
        close(ends[opened][1]);
    }
}

static void keep_sockets(int count) {
    for (int i = 0; i < count; i++)
        if (socket(AF_UNIX, SOCK_STREAM, 0) < 0)
            _exit(78);
}

/* Add an item to an epoll set and take it out again: the kernel frees it by kfree_rcu. */
static void churn_epoll(int count) {
    int set = epoll_create1(0), end[2];
    struct epoll_event event = {.events = EPOLLIN};
    if (set < 0 || pipe(end))
        _exit(72);
    for (int i = 0; i < count; i++) {
        if (epoll_ctl(set, EPOLL_CTL_ADD, end[0], &event) ||
            epoll_ctl(set, EPOLL_CTL_DEL, end[0], NULL))
            _exit(73);
        if (i % 500 == 499)
            usleep(20000); /* so that RCU gets to free them, and they are used again */
    }
    close(end[0]);
    close(end[1]);
    close(set);
}

static int kept_set = -1;

static void keep_epoll(int count) {
    struct epoll_event event = {.events = EPOLLIN};
    kept_set = epoll_create1(0);
    open_pipes(count);
    for (int i = 0; i < count; i++)
        if (epoll_ctl(kept_set, EPOLL_CTL_ADD, ends[opened - 1 - i][0], &event))
            _exit(74);
}

static void fork_children(int count) {
    for (int i = 0; i < count && forked < MOST; i++) {
        pid_t child = fork();
        if (child < 0)
            _exit(75);
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (;;)
                pause();
        }
        children[forked++] = child;
    }
}

static void end_children(void) {
    while (forked > 0) {
        forked--;
        kill(children[forked], SIGKILL);
        waitpid(children[forked], NULL, 0);
    }
}

static char *touched;
static size_t touched_bytes;

static void touch_pages(int count) {
    touched_bytes = (size_t)count * 4096;
    touched = mmap(NULL, touched_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (touched == MAP_FAILED || madvise(touched, touched_bytes, MADV_NOHUGEPAGE))
        _exit(76);
    for (size_t at = 0; at < touched_bytes; at += 4096)
        touched[at] = 1;
}

int main(void) {
    char line[64];
    struct rlimit limit;

    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    say("ready\n");
    while (read_line(line, sizeof line)) {
        char word[32] = "";
        int count = 0;
        sscanf(line, "%31s %d", word, &count);
        if (!strcmp(word, "open"))
            open_pipes(count);
        else if (!strcmp(word, "close"))
            close_pipes();
        else if (!strcmp(word, "epoll"))
            churn_epoll(count);
        else if (!strcmp(word, "keep"))
            keep_epoll(count);
        else if (!strcmp(word, "fork"))
            fork_children(count);
        else if (!strcmp(word, "reap"))
            end_children();
        else if (!strcmp(word, "touch"))
            touch_pages(count);
        else if (!strcmp(word, "sockets"))
            keep_sockets(count);
        else if (!strcmp(word, "untouch"))
            munmap(touched, touched_bytes);
        else
            _exit(77);
        say("done\n");
    }
    end_children();
    return 0;
}
