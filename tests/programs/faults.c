/* A target that makes resident memory grow in known amounts, for page faults.
 *
 *   touch PAGES      map anonymous pages and write to each
 *   thread PAGES     the same in a new thread
 *   read PAGES       map anonymous pages and have the kernel fill them, by read(2)
 *   again            write to all those pages again: nothing new
 *   map PAGES        map pages of a file
 *   file PAGES       read each of those
 */
#include "scenario.h"
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>

enum { PAGE = 4096, MAX_REGIONS = 64 };

static struct {
    char *start;
    size_t pages;
} regions[MAX_REGIONS];
static size_t region_count;

static char *map_pages(size_t pages) {
    char *start =
        mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED || region_count == MAX_REGIONS)
        _exit(3);
    /* One fault per page, independently of the system's setting. */
    madvise(start, pages * PAGE, MADV_NOHUGEPAGE);
    regions[region_count].start = start;
    regions[region_count++].pages = pages;
    return start;
}

SCENARIO scenario_touch(size_t pages) {
    char *start = map_pages(pages);
    for (size_t i = 0; i < pages; i++)
        start[i * PAGE] = 1;
    KEEP(start);
}

static void *in_thread(void *pages) {
    scenario_touch((size_t)pages);
    return NULL;
}

SCENARIO scenario_thread(size_t pages) {
    pthread_t thread;
    pthread_create(&thread, NULL, in_thread, (void *)pages);
    pthread_join(thread, NULL);
}

SCENARIO scenario_read(size_t pages) {
    char *start = map_pages(pages);
    int zero = open("/dev/zero", O_RDONLY);
    for (size_t i = 0; i < pages; i++)
        if (read(zero, start + i * PAGE, PAGE) != PAGE)
            _exit(3);
    close(zero);
}

SCENARIO scenario_again(void) {
    for (size_t r = 0; r < region_count; r++)
        for (size_t i = 0; i < regions[r].pages; i++)
            regions[r].start[i * PAGE] = 2;
    KEEP(regions);
}

static char *file_pages;

SCENARIO scenario_map(size_t pages) {
    int file = open("/proc/self/exe", O_RDONLY);
    file_pages = mmap(NULL, pages * PAGE, PROT_READ, MAP_PRIVATE, file, 0);
    if (file_pages == MAP_FAILED)
        _exit(3);
    close(file);
}

SCENARIO scenario_file(size_t pages) {
    static volatile char sum;
    for (size_t i = 0; i < pages; i++)
        sum += file_pages[i * PAGE];
}

int main(void) {
    static const struct {
        const char *name;
        void (*run)(size_t);
    } commands[] = {{"touch", scenario_touch},
                    {"thread", scenario_thread},
                    {"read", scenario_read},
                    {"map", scenario_map},
                    {"file", scenario_file}};
    char line[64];

    say("ready\n");
    while (read_line(line, sizeof line)) {
        if (strcmp(line, "again") == 0)
            scenario_again();
        for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
            size_t length = strlen(commands[i].name);
            if (strncmp(line, commands[i].name, length) == 0 && line[length] == ' ')
                commands[i].run(strtoul(line + length, NULL, 10));
        }
        say("done\n");
    }
    return 0;
}
