/* Programs that free everything, sooner or later. */
#include "case.h"
#include <math.h>

ALLOCATES(keep_here)
ALLOCATES(buffer_here)

enum { MOST_HELD = 8192 };
static void *held[MOST_HELD];
static long held_count;

static NAMED void hold(size_t size) {
    if (held_count < MOST_HELD)
        held[held_count++] = keep_here(size);
}

static NAMED void free_held(void) {
    while (held_count > 0)
        free(held[--held_count]);
}

/* A batch of 120 is collected, then all of it is freed. */
CASE(sawtooth) {
    while (tick()) {
        hold(150);
        if (ticks() % 120 == 119)
            free_held();
        settles_at(240);
    }
}

/* A batch takes 300 ticks. */
CASE(sawtooth_long) {
    while (tick()) {
        hold(150);
        if (ticks() % 300 == 299)
            free_held();
        settles_at(600);
    }
}

/* Like a garbage collector: all is freed at once, at irregular times. */
CASE(collected_at_irregular_times) {
    long next = 100;
    while (tick()) {
        hold(80);
        hold(80);
        if (ticks() >= next) {
            free_held();
            next = ticks() + 40 + below(120);
        }
        settles_at(250);
    }
}

/* Like a collector of two generations: one block in twenty survives it, until the next major
 * collection. */
CASE(generations) {
    static void *old[MOST_HELD];
    long old_count = 0;
    while (tick()) {
        hold(80);
        hold(80);
        if (ticks() % 30 == 29) {
            for (long i = 0; i < held_count; i++)
                if (i % 20 == 0)
                    old[old_count++] = held[i];
                else
                    free(held[i]);
            held_count = 0;
        }
        if (ticks() % 180 == 179)
            while (old_count > 0)
                free(old[--old_count]);
        settles_at(360);
    }
}

/* A queue. Its consumer is a little faster than its producer on average, whose rate changes. */
CASE(queue_under_varying_load) {
    enum { LONGEST = 600 };
    static void *queue[LONGEST];
    long first = 0, next = 0, rate = 3;
    while (tick()) {
        if (ticks() % 30 == 0)
            rate = below(8);
        for (long i = 0; i < rate && next - first < LONGEST; i++)
            queue[next++ % LONGEST] = keep_here(128);
        for (int i = 0; i < 4 && first < next; i++)
            free(queue[first++ % LONGEST]);
        settles_at(300);
    }
}

/* Each second buffer is filled while the other one is shown. */
CASE(double_buffering) {
    void *shown = NULL;
    while (tick())
        if (ticks() % 20 == 0) {
            void *next = buffer_here(100000);
            free(shown);
            shown = next;
        }
}

/* The configuration is read again every 100 ticks: the new one first, then the old one is freed. */
CASE(reloads_configuration) {
    enum { ENTRIES = 50 };
    void *entries[ENTRIES] = {NULL};
    while (tick())
        if (ticks() % 100 == 5) {
            void *loaded[ENTRIES];
            for (int i = 0; i < ENTRIES; i++)
                loaded[i] = keep_here(100);
            for (int i = 0; i < ENTRIES; i++)
                free(entries[i]);
            memcpy(entries, loaded, sizeof entries);
        }
}

/* Connections of very different length: most are short, some are 10 times as long as the mean. */
CASE(connections) {
    while (tick()) {
        if (chance(0.7))
            free_after(keep_here(900), exponential(70));
        settles_at(350);
    }
}

/* Lifetimes with a heavy tail (Pareto's law): the longest are a hundred times the shortest. */
CASE(connections_heavy_tail) {
    while (tick()) {
        if (chance(0.8)) {
            double lifetime = 5 / pow(1 - (double)below(1L << 30) / (double)(1L << 30), 1 / 1.3);
            free_after(keep_here(700), lifetime < 500 ? (long)lifetime : 500);
        }
        settles_at(550);
    }
}

/* A few connections stay for hundreds of ticks among many that are short. */
CASE(connections_of_two_kinds) {
    while (tick()) {
        for (int i = 0; i < 3; i++)
            free_after(keep_here(500), chance(0.03) ? 250 + below(100) : exponential(6));
        settles_at(450);
    }
}

/* Sessions that are used at random, and expire 120 ticks after their last use. */
CASE(sessions_with_timeout) {
    enum { USERS = 120 };
    static void *session[USERS];
    static long used_at[USERS];
    while (tick()) {
        long user = below(USERS);
        if (session[user] == NULL)
            session[user] = keep_here(600);
        used_at[user] = ticks();
        for (int i = 0; i < USERS; i++)
            if (session[i] != NULL && used_at[i] < ticks() - 120) {
                free(session[i]);
                session[i] = NULL;
            }
        settles_at(300);
    }
}

struct shared {
    int references;
    char data[200];
};

/* Objects with counted references. The last one to let go frees them. */
CASE(shared_objects) {
    enum { HOLDERS = 150 };
    static struct shared *of[HOLDERS];
    struct shared *current = NULL;
    while (tick()) {
        if (current == NULL || chance(0.1)) {
            if (current != NULL && --current->references == 0)
                free(current);
            current = keep_here(sizeof *current);
            current->references = 1;
        }
        struct shared **holder = &of[below(HOLDERS)];
        if (*holder != NULL && --(*holder)->references == 0)
            free(*holder);
        *holder = current;
        current->references++;
        settles_at(400);
    }
}

/* Fifty blocks of a working set are replaced in turn, one every four ticks. */
CASE(slow_replacement) {
    enum { BLOCKS = 50 };
    static void *blocks[BLOCKS];
    long at = 0;
    while (tick()) {
        if (ticks() % 4 == 0) {
            void **block = &blocks[at++ % BLOCKS];
            free(*block);
            *block = keep_here(1000);
        }
        settles_at(300);
    }
}

/* The load doubles once: from then on, twice as much is held. */
CASE(load_doubles) {
    while (tick()) {
        for (int i = 0; i < (ticks() < 300 ? 4 : 8); i++)
            free_after(keep_here(200), 20 + below(40));
        if (ticks() == 300)
            mark("load doubles");
        settles_at(420);
    }
}

/* The load rises and falls slowly, like that of a day. Each block is held for 10 to 30 ticks. */
CASE(load_like_a_day) {
    while (tick()) {
        double load = 1 + 4 * (1 - cos(2 * M_PI * (double)ticks() / 400));
        for (int i = 0; i < (int)load; i++)
            free_after(keep_here(200), 10 + below(20));
    }
}

/* The same with blocks that are held for a quarter of a period. */
CASE(load_like_a_day_long_lived) {
    while (tick()) {
        double load = 0.5 * (1 - cos(2 * M_PI * (double)ticks() / 400));
        if (chance(load))
            free_after(keep_here(200), 60 + below(80));
        settles_at(300);
    }
}

/* Fifty megabytes of small blocks are freed, and the allocator keeps the memory. */
CASE(allocator_keeps_memory) {
    while (tick()) {
        if (ticks() == 10)
            for (int i = 0; i < 5000; i++)
                hold(10000);
        if (ticks() == 60) {
            free_held();
            buffer_here(64);
        }
        settles_at(100);
    }
}

/* Nothing is ever allocated. */
CASE(idle) {
    be_quiet();
    while (tick()) {
    }
}

/* Requests of which each frees what it has allocated, but in another order and later. */
CASE(requests_overlap) {
    while (tick())
        for (int i = 0; i < 3; i++) {
            free_after(keep_here(64), below(30));
            free_after(buffer_here(4096), below(15));
        }
}
