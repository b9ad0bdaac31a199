/* Blocks kept by the first thread, by another one, and by a signal handler: each stack ends in code
 * of the C library, or with -DOWN_START in that of this program, that may have no unwind
 * information. What is held is reported at the end. */
#include "scenario.h"
#include <pthread.h>
#include <signal.h>

static pthread_barrier_t together;

SCENARIO keep_in_main(void) {
    KEEP(malloc(1000));
}

SCENARIO keep_in_thread(void) {
    KEEP(malloc(2000));
}

SCENARIO keep_in_handler(int signal) {
    KEEP(malloc(3000));
    KEEP(signal);
}

SCENARIO interrupted(void) {
    __asm__ volatile("int3"); /* the handler is called from here, not from within the C library */
}

static void *in_thread(void *unused) {
    pthread_barrier_wait(&together);
    keep_in_thread();
    pthread_barrier_wait(&together);
    return unused;
}

int main(void) {
    pthread_t thread;
    pthread_barrier_init(&together, NULL, 2);
    signal(SIGTRAP, keep_in_handler);
    void *block = malloc(1);
    KEEP(block);
    free(block); /* a static program has both then */
    if (pthread_create(&thread, NULL, in_thread, NULL) != 0)
        _exit(70);
    await_go();
    keep_in_main();
    interrupted();
    pthread_barrier_wait(&together);
    pthread_barrier_wait(&together);
    pthread_join(thread, NULL);
    done_with_account(6000, 3);
    return 0;
}

#ifdef OWN_START
/* A separate entry point, as in programs that don't start in the C library's: nothing says that it
 * is the outermost function, and rbp holds a number. */
__attribute__((noreturn)) void begin(void);

void begin(void) {
    exit(main());
}

__asm__(".globl _start\n"
        ".type _start, @function\n"
        "_start:\n"
        "    mov $1, %ebp\n"
        "    and $-16, %rsp\n"
        "    push $1\n" /* what a walk beyond it would find */
        "    push $1\n"
        "    call begin\n"
        ".size _start, . - _start\n");
#endif
