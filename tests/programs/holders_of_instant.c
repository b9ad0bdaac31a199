/* Blocks whose only holder is one for an instant: the pointers to some are in a vector register of
 * a thread, and nowhere else; the pointer to another is moved from variable to variable all the
 * time, by a thread that has it in a register between. Prints "vector TID" and "moving TID" of
 * these threads, and "done"; then it goes on until it is killed.
 *
 * A list is added to at its head meanwhile, once in a millisecond.
 */
#include <pthread.h>
#include <sys/syscall.h>

#include "scenario.h"

#define MAKER __attribute__((noinline, noclone)) static void *
#define PLACES 512
#define NODES 1000

struct node {
    struct node *next;
    void *payload;
    long values[4];
};

void *volatile in_vector[2]; /* until the register has them; then NULL */
void *volatile moving_places[PLACES];
struct node *volatile growing_list;
static pthread_barrier_t ready;

#define MAKE(name, size)                                                                           \
    MAKER name(void) {                                                                             \
        void *block = malloc(opaque(size));                                                        \
        memset(block, 0, size);                                                                    \
        KEEP(block);                                                                               \
        return block;                                                                              \
    }

MAKE(make_of_vector, 136)
MAKE(make_under_vector, 168)
MAKE(make_moving, 200)
MAKE(make_node, sizeof(struct node))
MAKE(make_payload, 232)

__attribute__((noinline)) static void scrub(void) {
    volatile char unused[8192];
    for (size_t i = 0; i < sizeof unused; i++)
        unused[i] = 0;
}

static void *keep_in_vector(void *unused) {
    (void)unused;
    print_result("vector", (unsigned long long)syscall(SYS_gettid));
    pthread_barrier_wait(&ready);
    scrub();
    /* From memory to the register, without any other between; then the memory is cleared. */
    __asm__ volatile("movdqu (%0), %%xmm9\n"
                     "movq $0, (%0)\n"
                     "movq $0, 8(%0)\n"
                     "1: pause\n"
                     "jmp 1b\n" ::"r"(in_vector)
                     : "xmm9", "memory");
    return NULL;
}

static void *move(void *unused) {
    (void)unused;
    print_result("moving", (unsigned long long)syscall(SYS_gettid));
    pthread_barrier_wait(&ready);
    scrub();
    for (size_t at = 0;; at = (at + 1) % PLACES) {
        void *held = moving_places[at];
        moving_places[at] = NULL;
        moving_places[(at + 1) % PLACES] = held;
    }
    return NULL;
}

__attribute__((noinline, noclone)) static void add_node(void) {
    struct node *node = make_node();
    node->payload = make_payload();
    node->next = growing_list;
    growing_list = node;
}

/* A function of its own: what it has in registers is gone when it returns. */
__attribute__((noinline, noclone)) static void make_those_in_vector(void) {
    for (size_t i = 0; i < opaque(2); i++) {
        in_vector[i] = make_of_vector();
        *(void **)in_vector[i] = make_under_vector();
    }
}

static void start_threads(void) {
    pthread_t threads[2];

    if (pthread_create(&threads[0], NULL, keep_in_vector, NULL) ||
        pthread_create(&threads[1], NULL, move, NULL))
        _exit(3);
    pthread_barrier_wait(&ready);
    scrub();
    while (in_vector[1])
        ;
}

int main(void) {
    pthread_barrier_init(&ready, NULL, 3);
    await_go();
    make_those_in_vector();
    moving_places[0] = make_moving();
    for (int i = 0;; i++) { /* The head of the list is always new. */
        add_node();
        if (i == NODES) {
            start_threads();
            say("done\n");
        }
        if (i > NODES)
            usleep(1000);
    }
}
