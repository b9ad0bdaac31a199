/*
 * Allocates, lives for 10 ms, and exits in one of several ways.
 *
 *   exits MODE [STATUS]
 *
 * It keeps 100 blocks of 1,000 bytes and one of 20 MiB, which it touches. With MODE:
 *   plain     return from main
 *   quick     quick_exit(3)
 *   handler   a handler of SIGCONT prints "continued"
 *   early     the same, before it allocates anything
 *   threads   a second thread waits, and prints "interrupted" if it sees EINTR
 *   children  before, a forked child and one made by vfork exit
 *   sharing   at last it attaches a segment and maps a memfd, of 1 MiB each
 *   killed    by SIGKILL
 * It prints "resident KIB" before that, from /proc/self/status.
 */
#include "scenario.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <time.h>

static SCENARIO scenario_keep_small(void) {
    char *block = malloc(1000);
    KEEP(block);
}

static SCENARIO scenario_keep_large(void) {
    char *block = malloc(20 << 20);
    memset(block, 1, 20 << 20);
    KEEP(block);
}

static void on_continue(int number) {
    (void)number;
    say("continued\n");
}

static void *wait_in_thread(void *descriptor) {
    struct epoll_event event;
    for (;;) {
        if (epoll_wait(*(int *)descriptor, &event, 1, -1) < 0 && errno == EINTR)
            say("interrupted\n");
    }
}

static void start_thread(void) {
    static int descriptor;
    pthread_t thread;
    descriptor = epoll_create1(0);
    if (descriptor < 0 || pthread_create(&thread, 0, wait_in_thread, &descriptor) != 0)
        _exit(70);
}

static void make_children(void) {
    int status;
    pid_t child = fork();
    if (child == 0)
        _exit(5);
    if (waitpid(child, &status, WUNTRACED) != child || WEXITSTATUS(status) != 5)
        _exit(71);
    child = vfork();
    if (child == 0)
        _exit(6);
    if (waitpid(child, &status, WUNTRACED) != child || WEXITSTATUS(status) != 6)
        _exit(72);
}

static SCENARIO scenario_share(void) {
    int segment = shmget(IPC_PRIVATE, 1 << 20, IPC_CREAT | 0600);
    int file = memfd_create("exits", 0);
    if (segment < 0 || file < 0 || ftruncate(file, 1 << 20) != 0)
        _exit(74);
    KEEP(shmat(segment, 0, 0));
    shmctl(segment, IPC_RMID, 0);
    KEEP(mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
}

static void say_resident(void) {
    char text[4096], *found;
    int file = open("/proc/self/status", O_RDONLY);
    ssize_t length = read(file, text, sizeof text - 1);
    if (length <= 0)
        _exit(73);
    close(file);
    text[length] = '\0';
    found = strstr(text, "VmRSS:");
    say("resident ");
    found[strcspn(found, "\n")] = '\0';
    say(found + strcspn(found, "0123456789"));
    say("\n");
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "plain";
    int status = argc > 2 ? atoi(argv[2]) : 0;
    struct timespec life = {0, 10000000};

    if (strcmp(mode, "early") == 0)
        signal(SIGCONT, on_continue);
    for (int i = 0; i < 100; i++)
        scenario_keep_small();
    scenario_keep_large();
    if (strcmp(mode, "handler") == 0)
        signal(SIGCONT, on_continue);
    if (strcmp(mode, "threads") == 0)
        start_thread();
    if (strcmp(mode, "children") == 0)
        make_children();
    nanosleep(&life, 0);
    say_resident();
    if (strcmp(mode, "sharing") == 0)
        scenario_share();
    if (strcmp(mode, "killed") == 0)
        raise(SIGKILL);
    if (strcmp(mode, "quick") == 0)
        quick_exit(status);
    return status;
}
