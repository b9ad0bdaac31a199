/* Blocks that are held in known ways, each allocated by a function of its own. Prints "thread TID"
 * of the thread that holds some, "mapped ADDRESS" of the memory that holds others, and "done"; then
 * it waits.
 *
 *   holders PLUGIN
 *
 * PLUGIN: holders_plugin.cpp, a library whose variables hold blocks.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "scenario.h"

#define MAKER __attribute__((noinline, noclone)) static void *

struct node {
    long value;
    struct node *next;
};
struct entry {
    struct entry *next;     /* of the same bucket */
    void *unused, *payload; /* each kind has a size of its own, so that makers stay apart */
};
struct early {
    void *held[64];
};
struct linked { /* as in the kernel: links are in the middle, and lead there */
    long value[4];
    struct link {
        struct link *next, *before;
    } link;
};

#define BUCKETS 256

struct node *volatile global_list;
static struct entry **volatile static_table;
static void *volatile global_array[200];
static struct early *volatile early_block;   /* from before the trace */
static void *volatile *volatile early_table; /* also, and large */
static void *volatile *mapped;
static __thread void *volatile thread_local_holder[16];
struct link intrusive_list = {&intrusive_list, &intrusive_list};
static pthread_barrier_t ready;

#define MAKE(name, size)                                                                           \
    MAKER name(void) {                                                                             \
        void *block = malloc(opaque(size));                                                        \
        memset(block, 0, size);                                                                    \
        KEEP(block);                                                                               \
        return block;                                                                              \
    }

MAKE(make_node, sizeof(struct node))
MAKE(make_table, BUCKETS * sizeof(struct entry *))
MAKE(make_entry, sizeof(struct entry))
MAKE(make_payload, 136)
MAKE(make_of_array, 40)
MAKE(make_of_early, 56)
MAKE(make_of_mapped, 72)
MAKE(make_of_table, 152)
MAKE(make_of_stack, 88)
MAKE(make_of_thread_local, 104)
MAKE(make_linked, sizeof(struct linked))

static void *hold(void *unused) {
    void *volatile here[24];

    (void)unused;
    for (int i = 0; i < 24; i++)
        here[i] = make_of_stack();
    for (int i = 0; i < 16; i++)
        thread_local_holder[i] = make_of_thread_local();
    print_result("thread", (unsigned long long)syscall(SYS_gettid));
    pthread_barrier_wait(&ready);
    for (;;)
        pause();
    KEEP(here);
    return NULL;
}

static void fill(void) {
    for (int i = 0; i < 5000; i++) {
        struct node *node = make_node();
        node->next = global_list;
        global_list = node;
    }
    struct entry **table = make_table();
    static_table = table;
    for (int i = 0; i < 1000; i++) {
        struct entry *entry = make_entry();
        entry->payload = make_payload();
        entry->next = table[i % BUCKETS];
        table[i % BUCKETS] = entry;
    }
    for (int i = 0; i < 200; i++)
        global_array[i] = make_of_array();
    for (int i = 0; i < 64; i++)
        early_block->held[i] = make_of_early();
    for (int i = 0; i < 40; i++)
        early_table[100 * i] = make_of_table();
    for (int i = 0; i < 32; i++)
        mapped[i] = make_of_mapped();
    for (int i = 0; i < 300; i++) {
        struct linked *linked = make_linked();
        linked->link.next = &intrusive_list;
        linked->link.before = intrusive_list.before;
        intrusive_list.before->next = &linked->link;
        intrusive_list.before = &linked->link;
    }
}

/* What calls have left on this stack is no pointer any more. */
__attribute__((noinline)) static void scrub(void) {
    volatile char unused[8192];
    for (size_t i = 0; i < sizeof unused; i++)
        unused[i] = 0;
}

int main(int argc, char **argv) {
    pthread_t thread;
    void *plugin = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
    void (*fill_plugin)(void) = plugin ? (void (*)(void))dlsym(plugin, "fill_plugin") : NULL;

    if (!fill_plugin)
        return 2;
    early_block = calloc(1, sizeof *early_block);
    early_table = calloc(100000, sizeof *early_table);
    /* Not next to other memory, with which the kernel would show it as one mapping. */
    mapped = mmap((void *)0x200000000000, 1 << 16, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (mapped == MAP_FAILED)
        return 4;
    pthread_barrier_init(&ready, NULL, 2);
    await_go();
    print_result("mapped", (uintptr_t)mapped);
    if (pthread_create(&thread, NULL, hold, NULL))
        return 3;
    pthread_barrier_wait(&ready);
    fill();
    fill_plugin();
    scrub();
    done();
    return 0;
}
