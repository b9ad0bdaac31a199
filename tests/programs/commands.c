/* A target that executes commands, one per line: for filters, full maps, and the start and end of
 * either side. Each command is answered with "done".
 *
 *   malloc COUNT SIZE     allocate and keep
 *   free                  free all that is kept
 *   calls COUNT           COUNT balanced pairs of malloc and free
 *   regions COUNT         COUNT balanced pairs of mmap and munmap
 *   exec PATH             become another program
 *   thread-exec PATH      the same, called by a thread that is not the first
 *   hand-over             the first thread exits; another one goes on taking commands
 *   fork                  a child frees what is kept, allocates 100 x 1000 bytes, and exits
 *   exit CODE             end at once
 */
#include "scenario.h"
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum { CAPACITY = 300000 };

static void *kept[CAPACITY];
static size_t kept_count;

SCENARIO scenario_command_malloc(size_t count, size_t size) {
    for (size_t i = 0; i < count && kept_count < CAPACITY; i++)
        kept[kept_count++] = malloc(size);
    KEEP(kept);
}

SCENARIO scenario_command_free(void) {
    while (kept_count > 0)
        free(kept[--kept_count]);
    KEEP(kept);
}

SCENARIO scenario_command_calls(size_t count) {
    for (size_t i = 0; i < count; i++) {
        void *block = malloc(64);
        KEEP(block);
        free(block);
    }
}

SCENARIO scenario_command_regions(size_t count) {
    for (size_t i = 0; i < count; i++) {
        void *region = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        KEEP(region);
        munmap(region, 4096);
    }
}

SCENARIO scenario_command_fork(void) {
    pid_t child = fork();
    if (child == 0) {
        while (kept_count > 0)
            free(kept[--kept_count]);
        for (int i = 0; i < 100; i++)
            KEEP(malloc(1000));
        _exit(0);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        _exit(76);
}

static void *execute(void *path) {
    execl(path, path, (char *)NULL);
    _exit(77);
}

static void *serve(void *unused);

static void start_thread(void *(*work)(void *), void *argument) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, argument) != 0)
        _exit(79);
}

static void *serve(void *unused) {
    char line[4096];
    (void)unused;
    while (read_line(line, sizeof line)) {
        char *rest = strchr(line, ' ');
        char *end = NULL;
        if (rest != NULL)
            *rest++ = '\0';
        if (strcmp(line, "malloc") == 0 && rest != NULL) {
            size_t count = strtoul(rest, &end, 10);
            scenario_command_malloc(count, strtoul(end, NULL, 10));
        } else if (strcmp(line, "free") == 0) {
            scenario_command_free();
        } else if (strcmp(line, "calls") == 0 && rest != NULL) {
            scenario_command_calls(strtoul(rest, NULL, 10));
        } else if (strcmp(line, "regions") == 0 && rest != NULL) {
            scenario_command_regions(strtoul(rest, NULL, 10));
        } else if (strcmp(line, "fork") == 0) {
            scenario_command_fork();
        } else if (strcmp(line, "exec") == 0 && rest != NULL) {
            execute(rest);
        } else if (strcmp(line, "thread-exec") == 0 && rest != NULL) {
            start_thread(execute, rest);
            for (;;)
                pause();
        } else if (strcmp(line, "hand-over") == 0) {
            start_thread(serve, NULL);
            say("done\n");
            pthread_exit(NULL);
        } else if (strcmp(line, "exit") == 0 && rest != NULL) {
            _exit((int)strtoul(rest, NULL, 10));
        } else {
            _exit(78);
        }
        say("done\n");
    }
    _exit(0);
}

int main(void) {
    say("ready\n");
    serve(NULL);
    return 0;
}
