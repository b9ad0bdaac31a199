/* Children of a program that is traced allocate, free what they inherited, and report their result:
 *
 *   fork      one after the other, from the midst of allocations
 *   threads   the same while another thread allocates
 *   vfork     a child that allocates in its parent's memory, and becomes another program
 *   spawn     posix_spawn
 *   daemon    the program goes on as the child of a child that has ended
 *   prefork   eight workers at once
 */
#include "scenario.h"
#include <pthread.h>
#include <spawn.h>
#include <sys/wait.h>

enum { ROUNDS = 20, WORKERS = 8, INHERITED = 50 };

extern char **environ;
static void *inherited[INHERITED];
static int is_over;

SCENARIO scenario(void) {
    for (size_t i = 0; i < opaque(INHERITED); i++)
        KEEP(inherited[i] = malloc(300));
}

/* Exits with 0 if all went well. */
static void work(size_t count) {
    unsigned wrong = 0;
    alarm(60); /* a child that hangs would not be ended otherwise */
    for (size_t i = 0; i < INHERITED; i++)
        free(inherited[i]);
    for (size_t i = 0; i < count; i++) {
        char *block = malloc(100 + i % 500);
        if (block == NULL)
            _exit(71);
        memset(block, 5, 100 + i % 500);
        block = realloc(block, 1000);
        KEEP(block);
        wrong += block == NULL || block[99] != 5;
        if (i % 3)
            free(block);
        else
            KEEP(calloc(opaque(3), 100));
    }
    _exit(wrong > 0);
}

static unsigned long long status_of(pid_t child) {
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child)
        _exit(76);
    return (unsigned long long)status;
}

static void fork_and_wait(void) {
    unsigned long long failed = 0;
    for (int i = 0; i < ROUNDS; i++) {
        pid_t child = fork();
        if (child == 0) {
            if (i == 0)
                say("a child at work\n");
            work(100);
        }
        failed += status_of(child) != 0;
        free(malloc(50));
    }
    print_result("failed", failed);
}

static void *allocate_until_over(void *unused) {
    while (!__atomic_load_n(&is_over, __ATOMIC_RELAXED)) {
        void *block = malloc(80);
        KEEP(block);
        free(block);
    }
    return unused;
}

static void fork_beside_a_thread(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, allocate_until_over, NULL) != 0)
        _exit(70);
    fork_and_wait();
    __atomic_store_n(&is_over, 1, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
}

static void vfork_and_execute(const char *self) {
    volatile unsigned long long failed = 0;
    for (volatile int i = 0; i < ROUNDS; i++) {
        pid_t child = vfork();
        if (child == 0) {
            free(malloc(70));
            execl(self, self, "work", (char *)NULL);
            _exit(77);
        }
        failed += status_of(child) != 0;
        free(malloc(50));
    }
    print_result("failed", failed);
}

static void spawn(char *self) {
    char *arguments[] = {self, (char *)"work", NULL};
    unsigned long long failed = 0;
    for (int i = 0; i < ROUNDS; i++) {
        pid_t child = -1;
        if (posix_spawn(&child, self, NULL, NULL, arguments, environ) != 0)
            _exit(83);
        failed += status_of(child) != 0;
        free(malloc(50));
    }
    print_result("failed", failed);
}

static void prefork(void) {
    pid_t children[WORKERS];
    for (int i = 0; i < WORKERS; i++)
        if ((children[i] = fork()) == 0)
            work(2000);
    for (int i = 0; i < WORKERS; i++)
        print_result("a worker ended with", status_of(children[i]));
}

static void become_daemon(void) {
    pid_t child = fork();
    if (child > 0)
        _exit(status_of(child) == 0 ? 3 : 1);
    if (child < 0 || setsid() < 0)
        _exit(76);
    pid_t daemon = fork();
    if (daemon != 0)
        _exit(daemon < 0);
    say("a daemon at work\n");
    if (fork() == 0)
        work(1000);
    say(wait(NULL) > 0 ? "its child has ended\n" : "it has no child\n");
    work(1000);
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    if (strcmp(mode, "work") == 0)
        work(100);
    await_go();
    scenario();
    account(INHERITED * 300, INHERITED);
    if (strcmp(mode, "fork") == 0)
        fork_and_wait();
    else if (strcmp(mode, "threads") == 0)
        fork_beside_a_thread();
    else if (strcmp(mode, "vfork") == 0)
        vfork_and_execute(argv[0]);
    else if (strcmp(mode, "spawn") == 0)
        spawn(argv[0]);
    else if (strcmp(mode, "prefork") == 0)
        prefork();
    else if (strcmp(mode, "daemon") == 0)
        become_daemon();
    else
        return 64;
    done();
    return 3;
}
