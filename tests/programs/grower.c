/* Grows in memory of a known size, and starts children that do, for the ranking of processes.
 *
 *   grow N      touch N new private pages     done BYTES COUNT: what it holds, in pages touched
 *   share N     touch N new shared pages      the same
 *   drop        unmap everything              the same
 *   children N  one after the other, N children touch 100 pages each and exit
 *   fork        a child that waits until its parent ends; done PID 0
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "scenario.h"

#define PAGE 4096UL
#define CHILD_PAGES 100
#define MAX_REGIONS 64

static struct {
    char *start;
    size_t pages;
} regions[MAX_REGIONS];
static size_t region_count, held_pages;

static void touch(size_t pages, int flags) {
    char *start = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED || region_count == MAX_REGIONS)
        _exit(3);
    madvise(start, pages * PAGE, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < pages; i++)
        start[i * PAGE] = 1;
    regions[region_count].start = start;
    regions[region_count++].pages = pages;
    held_pages += pages;
}

static void drop(void) {
    while (region_count > 0) {
        region_count--;
        munmap(regions[region_count].start, regions[region_count].pages * PAGE);
    }
    held_pages = 0;
}

static void children(size_t count) {
    for (size_t i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0) {
            touch(CHILD_PAGES, MAP_PRIVATE);
            _exit(0);
        }
        waitpid(child, NULL, 0);
    }
}

static pid_t fork_waiting(void) {
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    return child;
}

static void say_done(unsigned long long first, unsigned long long second) {
    char line[80] = "done ";
    char *end = put_number(line + 5, first);
    *end++ = ' ';
    end = put_number(end, second);
    *end++ = '\n';
    *end = '\0';
    say(line);
}

int main(void) {
    char line[64];
    pid_t child = 0;

    say("ready\n");
    while (read_line(line, sizeof line)) {
        size_t number = strtoul(line + strcspn(line, " "), NULL, 10);
        if (strncmp(line, "grow ", 5) == 0)
            touch(number, MAP_PRIVATE);
        else if (strncmp(line, "share ", 6) == 0)
            touch(number, MAP_SHARED);
        else if (strcmp(line, "drop") == 0)
            drop();
        else if (strncmp(line, "children ", 9) == 0)
            children(number);
        else if (strcmp(line, "fork") == 0)
            child = fork_waiting();
        if (strcmp(line, "fork") == 0)
            say_done((unsigned long long)child, 0);
        else
            say_done(held_pages * PAGE, held_pages);
    }
    return 0;
}
