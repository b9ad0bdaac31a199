/* Caches, pools and tables. They grow, and stop at a bound. */
#include "case.h"
#include <math.h>

ALLOCATES(keep_here)

/* A cache of keys that come at random: it fills ever slower. */
CASE(cache_of_random_keys) {
    enum { KEYS = 250 };
    static void *values[KEYS];
    int filled = 0;
    while (tick())
        for (int request = 0; request < 4; request++) {
            long key = below(KEYS);
            if (values[key] != NULL)
                continue;
            values[key] = keep_here(300);
            if (++filled == KEYS * 98 / 100)
                mark("settled");
        }
}

/* Fills at an even rate, then it is full. Before that it looks like a leak. */
CASE(cache_fills_evenly) {
    while (tick()) {
        if (ticks() < 200)
            keep_here(300);
        if (ticks() == 200)
            mark("full");
        settles_at(350);
    }
}

/* The least recently used entry makes room for a new one. */
static void run_lru(int capacity, long each_ticks) {
    void **entries = calloc((size_t)capacity, sizeof *entries);
    long added = 0;
    while (tick()) {
        if (ticks() % each_ticks != 0)
            continue;
        void **entry = &entries[added % capacity];
        free(*entry);
        *entry = keep_here(300);
        if (++added == capacity + capacity / 2)
            mark("settled");
    }
}

/* At its bound after 200 ticks. */
CASE(cache_lru) {
    run_lru(200, 1);
}

/* The same, but an entry stays for 600 ticks. With a warm-up, those that are evicted are older
 * than the trace for that long. */
CASE(cache_lru_long) {
    run_lru(300, 2);
}

/* An entry stays for 5,000 ticks: longer than the trace. */
CASE(cache_lru_longer_than_trace) {
    run_lru(2500, 2);
}

/* A full cache where a random entry makes room. */
CASE(cache_random_replacement) {
    enum { CAPACITY = 200 };
    static void *entries[CAPACITY];
    while (tick()) {
        for (int request = 0; request < 3; request++) {
            void **entry = &entries[below(CAPACITY)];
            free(*entry);
            *entry = keep_here(250);
        }
        settles_at(250);
    }
}

/* Objects of a pool that is filled once. */
CASE(pool) {
    enum { OBJECTS = 100 };
    void *idle[OBJECTS], *used[OBJECTS];
    int idle_count = 0, used_count = 0;
    while (tick()) {
        if (ticks() == 0)
            while (idle_count < OBJECTS)
                idle[idle_count++] = keep_here(2048);
        if (idle_count > 0 && chance(0.5))
            used[used_count++] = idle[--idle_count];
        else if (used_count > 0)
            idle[idle_count++] = used[--used_count];
        settles_at(100);
    }
}

/* Takes another chunk when the load is higher than ever before: ever more rarely. */
CASE(pool_grows_at_records) {
    long chunks = 1;
    keep_here(65536);
    while (tick()) {
        long need = exponential(2.0);
        if (need > chunks) {
            chunks++;
            keep_here(65536);
        }
        settles_at(300);
    }
}

ALLOCATES(node_here)

/* Freed nodes wait on a list to be used again. The list is as long as the load was ever high. */
CASE(free_list) {
    struct item {
        struct item *next;
        char data[80];
    } *idle = NULL, *used = NULL;
    while (tick()) {
        long load = labs(ticks() * 2 % 160 - 80) / 20; /* rises and falls */
        for (long i = 0; i < load; i++) {
            struct item *item = idle;
            if (item != NULL)
                idle = item->next;
            else
                item = node_here(sizeof *item);
            item->next = used;
            used = item;
        }
        if (ticks() % 80 == 0)
            while (used != NULL) {
                struct item *item = used;
                used = item->next;
                item->next = idle;
                idle = item;
            }
        settles_at(250);
    }
}

/* A stack: what is pushed last is popped first, so the lowest blocks are old. */
CASE(lifo_stack) {
    enum { HIGHEST = 150 };
    static void *stack[HIGHEST];
    int height = 0;
    while (tick()) {
        for (int i = 0; i < 6; i++)
            if (height == 0 || (height < HIGHEST && chance(0.48)))
                stack[height++] = keep_here(90);
            else
                free(stack[--height]);
        settles_at(200);
    }
}

static NAMED void **table_here(size_t slots) {
    void **table = calloc(slots, sizeof *table);
    if (table == NULL)
        _exit(71);
    return table;
}

/* A hash table that doubles when it is half full. Entries are inserted faster than they are removed
 * until there are 400, then as fast. */
CASE(hash_table_doubles) {
    size_t slots = 64, used = 0;
    void **table = table_here(slots);
    while (tick()) {
        for (int i = 0; i < 4; i++) {
            size_t at = chance_bits() % slots;
            while (table[at] != NULL)
                at = (at + 1) % slots;
            table[at] = node_here(56);
            used++;
        }
        while (used > 400 || (used > 0 && chance(0.6))) {
            size_t at = chance_bits() % slots;
            while (table[at] == NULL)
                at = (at + 1) % slots;
            free(table[at]);
            table[at] = NULL;
            used--;
        }
        if (used * 2 > slots) {
            void **larger = table_here(slots * 2);
            memcpy(larger, table, slots * sizeof *table);
            free(table);
            table = larger;
            slots *= 2;
        }
        settles_at(350);
    }
}

/* Names are stored once. They come by Zipf's law, so the rare ones come late. */
CASE(string_interning) {
    enum { NAMES = 300 };
    static char *interned[NAMES];
    static double share[NAMES];
    double sum = 0;
    for (int i = 0; i < NAMES; i++)
        share[i] = sum += 1.0 / (i + 1);
    int known = 0;
    while (tick())
        for (int word = 0; word < 40; word++) {
            double point = (double)below(1L << 40) / (double)(1L << 40) * sum;
            int name = 0;
            while (name < NAMES - 1 && share[name] < point)
                name++;
            if (interned[name] != NULL)
                continue;
            interned[name] = keep_here(40);
            if (++known == NAMES * 97 / 100)
                mark("settled");
        }
}

/* The last hundred lines of a log. */
CASE(log_ring) {
    enum { LINES = 100 };
    static void *lines[LINES];
    while (tick()) {
        void **line = &lines[ticks() % LINES];
        free(*line);
        *line = keep_here(40 + (size_t)below(120));
        settles_at(150);
    }
}

/* A sliding window by time: what is older than 150 ticks is dropped, ten at a time. */
CASE(time_window) {
    enum { MOST = 4096 };
    static void *window[MOST];
    static long added_at[MOST];
    long first = 0, next = 0;
    while (tick()) {
        for (long i = 0, arrivals = below(4); i < arrivals; i++) {
            added_at[next % MOST] = ticks();
            window[next++ % MOST] = keep_here(60);
        }
        if (ticks() % 10 == 0)
            while (first < next && added_at[first % MOST] < ticks() - 150)
                free(window[first++ % MOST]);
        settles_at(250);
    }
}
