/* Maps, user memory and helpers for BPF programs that run in user space, and what the driver
 * (machine.py) calls: one program at a time, in one thread. */
#include "runtime.h"

#include <errno.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS 1024
#define MOST_TAIL_CALLS 33 /* MAX_TAIL_CALL_CNT, include/linux/bpf.h */
#define MOST_READS 8192    /* that are recorded per run */

struct entry {
    struct entry *next_in_bucket;
    struct entry *older;
    struct entry *newer;
    char *key;
    char *value;
};

/* Memory of the process that the programs interrupt. The driver keeps the bytes. */
struct region {
    uint64_t start;
    uint64_t bytes;
    const char *data;
};

struct read {
    uint64_t address;
    uint64_t bytes;
    uint64_t failed;
};

typedef int (*program)(void *ctx);

static struct map *maps;
static struct region *regions;
static size_t region_count;
static struct read reads[MOST_READS];
static uint64_t read_count, lookup_count, missed_lookups, tail_calls, thread, cookie, time_ns;
static uint64_t random_state = 1;
static jmp_buf next_program;
static program tail;

/* --- maps ----------------------------------------------------------------------------------- */

void register_map(struct map *map) {
    map->next = maps;
    maps = map;
}

/* Values of an array lie at multiples of eight bytes (kernel/bpf/arraymap.c). */
static size_t stride(const struct map *map) {
    return (map->value_bytes + 7UL) & ~7UL;
}

static size_t bucket_of(const struct map *map, const void *key) {
    uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */

    for (size_t i = 0; i < map->key_bytes; i++)
        hash = (hash ^ ((const unsigned char *)key)[i]) * 0x100000001b3;
    return hash % BUCKETS;
}

static struct entry **find(struct map *map, const void *key) {
    if (!map->buckets) {
        map->buckets = calloc(BUCKETS, sizeof(*map->buckets));
        if (!map->buckets)
            abort();
    }
    struct entry **place = &map->buckets[bucket_of(map, key)];
    while (*place && memcmp((*place)->key, key, map->key_bytes) != 0)
        place = &(*place)->next_in_bucket;
    return place;
}

static void ensure_values(struct map *map) {
    if (!map->values)
        map->values = calloc(map->capacity, stride(map));
    if (!map->values)
        abort();
}

void *map_lookup(struct map *map, const void *key) {
    lookup_count++;
    if (map->kind == MAP_ARRAY) {
        uint32_t index;
        memcpy(&index, key, sizeof(index));
        if (index >= map->capacity) {
            missed_lookups++;
            return NULL;
        }
        ensure_values(map);
        return map->values + index * stride(map);
    }
    struct entry *entry = *find(map, key);
    return entry ? entry->value : NULL;
}

static void unlink_entry(struct map *map, struct entry **place) {
    struct entry *entry = *place;

    *place = entry->next_in_bucket;
    *(entry->older ? &entry->older->newer : &map->first) = entry->newer;
    *(entry->newer ? &entry->newer->older : &map->last) = entry->older;
    map->count--;
    free(entry->key);
    free(entry->value);
    free(entry);
}

static void *copy_of(const void *data, size_t bytes) {
    void *copy = malloc(bytes);

    if (!copy)
        abort();
    return memcpy(copy, data, bytes);
}

long map_update(struct map *map, const void *key, const void *value, unsigned long flags) {
    if (map->kind == MAP_ARRAY) {
        void *element = map_lookup(map, key);
        if (!element)
            return -E2BIG;
        memcpy(element, value, map->value_bytes);
        return 0;
    }
    struct entry **place = find(map, key);
    if (*place && flags == UPDATE_NEW)
        return -EEXIST;
    if (*place) {
        memcpy((*place)->value, value, map->value_bytes);
        return 0;
    }
    if (map->count >= map->capacity) {
        if (map->kind != MAP_LRU_HASH || !map->first)
            return -E2BIG;
        unlink_entry(map, find(map, map->first->key));
        place = find(map, key);
    }
    struct entry *entry = calloc(1, sizeof(*entry));
    if (!entry)
        abort();
    entry->key = copy_of(key, map->key_bytes);
    entry->value = copy_of(value, map->value_bytes);
    entry->older = map->last;
    *(map->last ? &map->last->newer : &map->first) = entry;
    map->last = entry;
    map->count++;
    *place = entry;
    return 0;
}

long map_delete(struct map *map, const void *key) {
    struct entry **place = find(map, key);

    if (!*place)
        return -ENOENT;
    unlink_entry(map, place);
    return 0;
}

long map_send(struct map *map, const void *data, unsigned long bytes) {
    (void)data;
    (void)bytes;
    map->count++;
    return 0;
}

/* --- helpers -------------------------------------------------------------------------------- */

static const struct region *region_at(uint64_t address) {
    size_t low = 0, high = region_count;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (regions[middle].start + regions[middle].bytes <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low < region_count && regions[low].start <= address ? &regions[low] : NULL;
}

static int copy_user(char *to, uint64_t bytes, uint64_t from) {
    while (bytes > 0) {
        const struct region *region = region_at(from);
        if (!region)
            return 0;
        uint64_t offset = from - region->start, here = region->bytes - offset;
        if (here > bytes)
            here = bytes;
        memcpy(to, region->data + offset, here);
        to += here;
        from += here;
        bytes -= here;
    }
    return 1;
}

/* Like the kernel's, it fills what it can't read with zeroes (bpf_probe_read_user_common). */
long read_user_memory(void *to, unsigned int bytes, const void *from) {
    uint64_t address = (uintptr_t)from;
    int failed = !copy_user(to, bytes, address);

    if (failed)
        memset(to, 0, bytes);
    if (read_count < MOST_READS)
        reads[read_count] = (struct read){address, bytes, (uint64_t)failed};
    read_count++;
    return failed ? -EFAULT : 0;
}

long read_user_text(void *to, unsigned int bytes, const void *from) {
    char *text = to;

    for (unsigned int i = 0; i < bytes; i++) {
        if (!copy_user(text + i, 1, (uintptr_t)from + i)) {
            memset(to, 0, bytes);
            return -EFAULT;
        }
        if (!text[i])
            return i + 1;
    }
    if (bytes)
        text[bytes - 1] = 0;
    return bytes;
}

unsigned long current_thread(void) {
    return thread;
}

unsigned long current_cookie(void) {
    return cookie;
}

unsigned long now_ns(void) {
    return ++time_ns;
}

unsigned int random_number(void) {
    random_state = random_state * 6364136223846793005 + 1442695040888963407;
    return random_state >> 32;
}

void send_signal(int number) {
    (void)number;
}

/* A tail call does not return: the program that made it is over. It returns where the kernel's
 * fails. */
void tail_call(struct map *map, void *ctx, unsigned int index) {
    (void)ctx; /* the programs of a run share it */
    ensure_values(map);
    if (index >= map->capacity || tail_calls >= MOST_TAIL_CALLS)
        return;
    memcpy(&tail, map->values + index * stride(map), sizeof(tail));
    if (!tail)
        return;
    tail_calls++;
    longjmp(next_program, 1);
}

/* --- the driver ----------------------------------------------------------------------------- */

struct map *map_called(const char *name) {
    for (struct map *map = maps; map; map = map->next)
        if (strcmp(map->name, name) == 0)
            return map;
    return NULL;
}

struct map *next_map(struct map *map) {
    return map ? map->next : maps;
}

const char *name_of(const struct map *map) {
    return map->name;
}

/* The first value of an array, which has room for `capacity` of them from now on; 0 leaves the
 * capacity as it is. */
void *array_values(struct map *map, unsigned int capacity) {
    if (capacity && capacity != map->capacity) {
        free(map->values);
        map->values = NULL;
        map->capacity = capacity;
    }
    ensure_values(map);
    return map->values;
}

void set_capacity(struct map *map, unsigned int capacity) {
    map->capacity = capacity;
}

unsigned int capacity_of(const struct map *map) {
    return map->capacity;
}

unsigned int count_of(const struct map *map) {
    return map->count;
}

unsigned int value_bytes_of(const struct map *map) {
    return map->value_bytes;
}

/* The key that has been in a hash for the longest time; NULL in an empty one. */
const void *oldest_key(const struct map *map) {
    return map->first ? map->first->key : NULL;
}

void clear_map(struct map *map) {
    if (map->kind == MAP_PROGRAMS)
        return;
    if (map->values)
        memset(map->values, 0, map->capacity * stride(map));
    while (map->first)
        unlink_entry(map, find(map, map->first->key));
    map->count = 0;
}

/* The regions ascend and do not overlap. The array and the bytes stay the caller's. */
void set_memory(struct region *list, size_t count) {
    regions = list;
    region_count = count;
}

/* Run a program and those that it tail-calls. */
int run(program first, void *ctx, uint64_t pid_tgid, uint64_t attach_cookie) {
    thread = pid_tgid;
    cookie = attach_cookie;
    read_count = lookup_count = missed_lookups = tail_calls = 0;
    tail = first;
    setjmp(next_program);
    return tail(ctx);
}

void counts_of_run(uint64_t counts[4]) {
    counts[0] = read_count;
    counts[1] = lookup_count;
    counts[2] = missed_lookups;
    counts[3] = tail_calls;
}

/* The reads of the last run: address, bytes, whether it failed. The first MOST_READS of them. */
const struct read *reads_of_run(void) {
    return reads;
}
