/* A pool of objects, whose functions leaktrace is told by --pair: what it hands out is no block of
 * malloc, or only a part of one. Does what its lines ask for, and keeps its own account.
 *
 *   pool      objects with a size (third argument of pool_take), released by the second argument of
 *             pool_give; each also mallocs a label of 24 bytes, which is never freed
 *   tickets   small numbers; negative ones and 0 are none
 *   nested    pool_take_twice, which calls itself
 *   wrapped   pool_wrap, which jumps to pool_take
 *   threads   four threads take and give at the same time
 *   failures  NULL, errors as pointers, errors as ints
 *   copies    strdup and free
 *   fork      a child, which does what "child LINE" asks for; answers "done PID"
 */
#include "asked_child.h"
#include "scenario.h"
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

enum { ROOM = 4 << 20, ALIGNMENT = 16, LABEL_BYTES = 24 };

static _Alignas(ALIGNMENT) char room[ROOM];
static atomic_size_t used;
static atomic_ulong taken_bytes, taken_count, given_bytes, given_count;
static void *labels;
static int last_ticket;

__attribute__((noinline, noclone)) void *pool_take(int kind, const char *name, size_t size) {
    KEEP(name);
    if (kind < 0)
        return (void *)(intptr_t)kind; /* an error, as in the kernel's ERR_PTR */
    if (size > ROOM / 2)
        return NULL;
    void **label = malloc(LABEL_BYTES);
    if (label == NULL)
        _exit(71);
    *label = labels;
    labels = label;
    size_t at = atomic_fetch_add(&used, (size + ALIGNMENT) & ~(size_t)(ALIGNMENT - 1));
    if (at + size >= ROOM)
        _exit(72);
    return room + at;
}

__attribute__((noinline, noclone)) void pool_give(int kind, void *object) {
    KEEP(object);
    (void)kind;
}

__attribute__((noinline, noclone)) int ticket_take(int wanted) {
    KEEP(&wanted);
    return wanted < 0 ? wanted : wanted ? ++last_ticket : 0;
}

__attribute__((noinline, noclone)) void ticket_give(int ticket) {
    __asm__ volatile("" ::"r"(ticket));
}

__attribute__((noinline, noclone)) void *pool_take_twice(int depth, size_t size) {
    void *object = depth > 0 ? pool_take_twice(depth - 1, size) : pool_take(1, "twice", size);
    KEEP(object);
    return object;
}

__attribute__((noinline, noclone)) void *pool_wrap(int kind, size_t size) {
    return pool_take(kind, "wrapped", size);
}

/* A jump to malloc: where its result is known is not in this object. */
__attribute__((noinline, noclone)) void *jumping_take(size_t size) {
    return malloc(size);
}

static void *take(size_t size) {
    void *object = pool_take(1, "plain", size);
    KEEP(object);
    taken_bytes += size;
    taken_count++;
    return object;
}

static void give(void *object, size_t size) {
    pool_give(1, object);
    given_bytes += size;
    given_count++;
}

SCENARIO use_pool(void) {
    for (size_t i = 0; i < opaque(300); i++) {
        void *object = take(i);
        if (i % 3)
            give(object, i);
    }
}

SCENARIO use_tickets(void) {
    for (int i = 0; i < (int)opaque(100); i++) {
        int ticket = ticket_take(1);
        taken_count++;
        if (i % 4) {
            ticket_give(ticket);
            given_count++;
        }
    }
}

SCENARIO use_nested(void) {
    for (size_t i = 0; i < opaque(10); i++) {
        KEEP(pool_take_twice(3, 50));
        taken_bytes += 50;
        taken_count++;
    }
}

SCENARIO use_wrapped(void) {
    for (size_t i = 0; i < opaque(10); i++) {
        KEEP(pool_wrap(1, 70));
        taken_bytes += 70;
        taken_count++;
    }
}

static void *in_thread(void *unused) {
    (void)unused;
    for (size_t i = 1; i <= opaque(2000); i++) {
        void *object = take(i % 64);
        if (i % 10)
            give(object, i % 64);
    }
    return NULL;
}

SCENARIO use_threads(void) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        if (pthread_create(&threads[i], NULL, in_thread, NULL))
            _exit(73);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
}

SCENARIO use_failures(void) {
    for (size_t i = 0; i < opaque(20); i++) {
        KEEP(pool_take(1, "too large", ROOM));
        KEEP(pool_take(-12, "an error", 10));
        KEEP(pool_take(-4095, "an error", 10));
        ticket_take(0);
        ticket_take(-1);
        ticket_take(-4095);
        pool_give(1, NULL);
    }
    take(1);
    ticket_take(1);
}

SCENARIO use_copies(void) {
    for (size_t i = 0; i < opaque(50); i++) {
        char *copy = strdup("a copy");
        KEEP(copy);
        taken_count++;
        if (i % 5) {
            free(copy);
            given_count++;
        }
    }
}

int main(void) {
    char line[64];

    free(malloc(1)); /* the heap exists before anything is compared */
    say("ready\n");
    while (read_line(line, sizeof line)) {
        taken_bytes = taken_count = given_bytes = given_count = 0;
        if (!strncmp(line, "child ", 6)) {
            ask_child(line + 6);
            continue;
        }
        if (!strcmp(line, "fork")) {
            fork_child();
            continue;
        }
        if (!strcmp(line, "pool"))
            use_pool();
        else if (!strcmp(line, "tickets"))
            use_tickets();
        else if (!strcmp(line, "nested"))
            use_nested();
        else if (!strcmp(line, "wrapped"))
            use_wrapped();
        else if (!strcmp(line, "threads"))
            use_threads();
        else if (!strcmp(line, "failures"))
            use_failures();
        else if (!strcmp(line, "copies"))
            use_copies();
        else
            _exit(74);
        char answer[80] = "done ";
        char *end = put_number(answer + 5, taken_bytes - given_bytes);
        *end++ = ' ';
        end = put_number(end, taken_count - given_count);
        *end++ = '\n';
        *end = '\0';
        say(answer);
    }
    if (to_child) {
        close(to_child);
        wait(NULL);
    }
    return 0;
}
