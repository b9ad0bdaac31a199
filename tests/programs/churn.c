/* Ten thousand short-lived threads, one block leaked by each: state kept per thread must not pile
 * up. The threads run on a stack mapped beforehand, so that the library maps none. */
#include "scenario.h"
#include <pthread.h>
#include <sys/mman.h>

enum { THREADS = 10000, STACK_BYTES = 1 << 16 };

static void *leak_one(void *unused) {
    (void)unused;
    void *balanced = malloc(500);
    KEEP(balanced);
    KEEP(malloc(32));
    free(balanced);
    return NULL;
}

int main(void) {
    void *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    if (stack == MAP_FAILED || pthread_attr_setstack(&attributes, stack, STACK_BYTES) != 0)
        _exit(70);
    await_go();
    for (int i = 0; i < THREADS; i++) {
        pthread_t thread;
        if (pthread_create(&thread, &attributes, leak_one, NULL) != 0)
            _exit(71);
        pthread_join(thread, NULL);
    }
    done();
    return 0;
}
