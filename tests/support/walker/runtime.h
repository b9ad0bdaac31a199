/* The part of the kernel that the BPF programs see, as runtime.c implements it. No header of the C
 * library and none of the kernel: both the programs and runtime.c include this file. */
#ifndef RUNTIME_H
#define RUNTIME_H

enum map_kind { MAP_ARRAY, MAP_HASH, MAP_LRU_HASH, MAP_PROGRAMS, MAP_EVENTS };

struct map {
    const char *name;
    enum map_kind kind;
    unsigned int key_bytes;
    unsigned int value_bytes;
    unsigned int capacity;
    unsigned int count;  /* entries of a hash; of MAP_EVENTS, records that were sent */
    char *values;        /* of an array */
    struct entry *first; /* of a hash: the oldest entry */
    struct entry *last;
    struct entry **buckets;
    struct map *next;
};

enum update_flags { UPDATE_ANY = 0, UPDATE_NEW = 1 }; /* BPF_ANY, BPF_NOEXIST */

void register_map(struct map *map);
void *map_lookup(struct map *map, const void *key);
long map_update(struct map *map, const void *key, const void *value, unsigned long flags);
long map_delete(struct map *map, const void *key);
long map_send(struct map *map, const void *data, unsigned long bytes);
void tail_call(struct map *map, void *ctx, unsigned int index);

long read_user_memory(void *to, unsigned int bytes, const void *from);
long read_user_text(void *to, unsigned int bytes, const void *from);
unsigned long current_thread(void);
unsigned long current_cookie(void);
unsigned long now_ns(void);
unsigned int random_number(void);
void send_signal(int number);

#endif
