/* Frees blocks after a while, and measures how long each of them lived.
 *
 *   KIND COUNT US   COUNT blocks, each freed US microseconds later, and one more that stays.
 * Answers "done", followed by two numbers for each block: it lived at least and at most this many
 * nanoseconds. KIND: blocks    free resized   realloc, whose result is another block handed another
 * thread frees it objects   of object_take and object_give, for --pair older COUNT     COUNT blocks
 * that were allocated at the start: half of them are freed, the others resized; answers "done
 * COUNT" fork            a child, which does what "child LINE" asks for; answers "done PID" exec
 * the program executes itself, and is ready again
 */
#include "asked_child.h"
#include "scenario.h"
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>

enum { MOST = 20, OLDER = 200 };

static void *older[OLDER], *handed;
static sem_t is_handed, is_freed;
static char objects[2];
static char answer[64 * MOST];

static unsigned long long now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (unsigned long long)time.tv_sec * 1000000000 + (unsigned long long)time.tv_nsec;
}

__attribute__((noinline, noclone)) void *object_take(void) {
    static int taken;
    return &objects[taken++ & 1];
}

__attribute__((noinline, noclone)) void object_give(void *object) {
    KEEP(object);
}

static void *free_what_is_handed(void *unused) {
    for (;;) {
        sem_wait(&is_handed);
        free(handed);
        sem_post(&is_freed);
    }
    return unused;
}

static void give_back(const char *kind, void *block) {
    if (!strcmp(kind, "objects")) {
        object_give(block);
    } else if (!strcmp(kind, "resized")) {
        block = realloc(block, opaque(100000));
        KEEP(block);
        free(block);
    } else if (!strcmp(kind, "handed")) {
        handed = block;
        sem_post(&is_handed);
        sem_wait(&is_freed);
    } else {
        free(block);
    }
}

/* One call site for all, so that there is one site. */
__attribute__((noinline, noclone)) void *take(const char *kind) {
    void *block = strcmp(kind, "objects") ? malloc(100) : object_take();
    KEEP(block);
    return block;
}

SCENARIO scenario_lifetimes(const char *kind, size_t count, useconds_t sleep_us) {
    char *end = answer + 4;

    memcpy(answer, "done", 4);
    for (size_t i = 0; i <= count; i++) {
        unsigned long long before = now_ns();
        void *block = take(kind);
        unsigned long long taken = now_ns();
        if (i == count)
            break;
        usleep(sleep_us);
        unsigned long long at_least = now_ns() - taken;
        give_back(kind, block);
        *end++ = ' ';
        end = put_number(end, at_least);
        *end++ = ' ';
        end = put_number(end, now_ns() - before);
    }
    memcpy(end, "\n", 2);
    say(answer);
}

SCENARIO scenario_older(size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (i % 2)
            free(older[i]);
        else
            KEEP(realloc(older[i], opaque(5000)));
    }
}

int main(int argc, char **argv) {
    char line[64], kind[16];
    size_t count;
    useconds_t sleep_us;
    pthread_t thread;

    (void)argc;
    for (size_t i = 0; i < OLDER; i++)
        older[i] = malloc(100);
    if (sem_init(&is_handed, 0, 0) || sem_init(&is_freed, 0, 0) ||
        pthread_create(&thread, NULL, free_what_is_handed, NULL))
        _exit(70);
    say("ready\n");
    while (read_line(line, sizeof line)) {
        if (!strncmp(line, "child ", 6)) {
            ask_child(line + 6);
        } else if (!strcmp(line, "fork")) {
            fork_child();
        } else if (!strcmp(line, "exec")) {
            execl(argv[0], argv[0], (char *)NULL);
            _exit(71);
        } else if (sscanf(line, "older %zu", &count) == 1 && count <= OLDER) {
            scenario_older(count);
            print_result("done", count);
        } else if (sscanf(line, "%15s %zu %u", kind, &count, &sleep_us) == 3 && count <= MOST) {
            scenario_lifetimes(kind, count, sleep_us);
        } else {
            _exit(72);
        }
    }
    if (to_child) {
        close(to_child);
        wait(NULL);
    }
    return 0;
}
