/* Frees blocks of one site in several functions, and some nowhere. Each line has four words:
 *
 *   blocks N OFTEN RARE    a block N times: close_often() frees OFTEN of each hundred of them,
 *                          close_rarely() one in RARE of the others, and resize() resizes the rest.
 *                          Every thousandth stays.
 *   objects N OFTEN RARE   the same with object_take and object_give, for --pair; none is resized
 *   deep N 0 0             two blocks at each of N depths of the stack, one of which is freed
 *
 * It answers "done", and how many each of the three functions has released.
 */
#include "scenario.h"
#include <stdio.h>

enum { ROOM = 1024 };

static char objects[ROOM];
static size_t next_object;
static unsigned long long often_freed, rarely_freed, resized;
static int is_pair;

__attribute__((noinline, noclone)) void *object_take(void) {
    return &objects[next_object++ % ROOM];
}

__attribute__((noinline, noclone)) void object_give(void *object) {
    KEEP(object);
}

static void release(void *block) {
    if (is_pair)
        object_give(block);
    else
        free(block);
}

SCENARIO close_often(void *block) {
    release(block);
    KEEP(block);
    often_freed++;
}

SCENARIO close_rarely(void *block) {
    release(block);
    KEEP(block);
    rarely_freed++;
}

SCENARIO resize(void *block) {
    block = realloc(block, opaque(5000));
    KEEP(block);
    resized++;
    free(block);
}

__attribute__((noinline, noclone)) void *open_one(void) {
    void *block = is_pair ? object_take() : malloc(100);
    KEEP(block);
    return block;
}

SCENARIO scenario_releases(size_t count, unsigned often, unsigned rare) {
    static unsigned long long random = 88172645463325252ULL;

    for (size_t i = 1; i <= count; i++) {
        void *block = open_one();
        if (i % 1000 == 0)
            continue;
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        if (random % 100 < often)
            close_often(block);
        else if (is_pair || random / 100 % rare == 0)
            close_rarely(block);
        else
            resize(block);
    }
}

SCENARIO scenario_deep(size_t depth) {
    KEEP(open_one());
    close_often(open_one());
    if (depth > 1)
        scenario_deep(depth - 1);
    KEEP(depth);
}

int main(void) {
    char line[64], kind[16];
    size_t count;
    unsigned often, rare;

    say("ready\n");
    while (read_line(line, sizeof line)) {
        if (sscanf(line, "%15s %zu %u %u", kind, &count, &often, &rare) != 4)
            _exit(70);
        is_pair = !strcmp(kind, "objects");
        often_freed = rarely_freed = resized = 0;
        if (!strcmp(kind, "deep"))
            scenario_deep(count);
        else
            scenario_releases(count, often, rare);
        char answer[96] = "done ";
        char *end = put_number(answer + 5, often_freed);
        *end++ = ' ';
        end = put_number(end, rarely_freed);
        *end++ = ' ';
        end = put_number(end, resized);
        memcpy(end, "\n", 2);
        say(answer);
    }
    return 0;
}
