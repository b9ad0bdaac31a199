/* Stacks that begin at the same instruction and the same place in memory, and go on differently: in
 * one return address far up, in where a frame ends, in a frame found by rbp. Each occurs many
 * times, in turns, so that the cached result of one is present when the next occurs. */
#include "scenario.h"
#include <alloca.h>
#include <pthread.h>

enum { ROUNDS = 2000, THREADS = 8 };

static __attribute__((noinline, noclone)) void allocate(size_t size) {
    KEEP(malloc(size));
}

static __attribute__((noinline, noclone)) void middle(size_t size) {
    allocate(size);
    KEEP(size);
}

static __attribute__((noinline, noclone)) void upper(size_t size) {
    middle(size);
    KEEP(size);
}

SCENARIO scenario_left(void) {
    upper(opaque(3));
    KEEP(1);
}

SCENARIO scenario_right(void) {
    upper(opaque(5));
    KEEP(2);
}

/* Together these two take the same stack space, whichever takes more, and have frames by rbp. */
static __attribute__((noinline, noclone)) void lower_room(size_t room, size_t size) {
    KEEP(alloca(room));
    allocate(size);
    KEEP(size);
}

SCENARIO scenario_much_above(void) {
    KEEP(alloca(opaque(512)));
    lower_room(opaque(64), opaque(7));
    KEEP(3);
}

SCENARIO scenario_much_below(void) {
    KEEP(alloca(opaque(64)));
    lower_room(opaque(512), opaque(11));
    KEEP(4);
}

/* Where a frame ends is known from rbp alone, which differs from call to call. */
static __attribute__((noinline, noclone)) void by_depth(int depth, size_t size) {
    KEEP(alloca(opaque(16u * (unsigned)(depth % 3 + 1))));
    if (depth > 0)
        by_depth(depth - 1, size);
    else
        allocate(size);
    KEEP(size);
}

SCENARIO scenario_recursive(void) {
    for (int depth = 0; depth < 9; depth++)
        by_depth(depth, opaque(13));
    KEEP(5);
}

static void take_turns(void) {
    for (size_t i = 0; i < opaque(ROUNDS); i++) {
        scenario_left();
        scenario_right();
        scenario_much_above();
        scenario_much_below();
        scenario_recursive();
    }
}

static void *work(void *argument) {
    take_turns();
    return argument;
}

/* Few words decide its stack, and an adjacent word that doesn't decide changes. */
static void *work_shortly(void *argument) {
    for (volatile size_t i = 0; i < opaque(20000); i++)
        KEEP(malloc(17));
    return argument;
}

int main(int count, char **words) {
    pthread_t threads[THREADS];
    await_go();
    if (count > 1 && strcmp(words[1], "short") == 0) {
        if (pthread_create(&threads[0], NULL, work_shortly, NULL))
            _exit(71);
        pthread_join(threads[0], NULL);
        done();
        return 0;
    }
    take_turns();
    for (size_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, NULL))
            _exit(71);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    done();
    return 0;
}
