/* A timer interrupts five thousand times a second, in the middle of every allocation function; the
 * handler ("alternate": on a signal stack) maps memory, writes and asks for the time. */
#include "scenario.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

enum { INTERRUPTS = 500 };

static volatile sig_atomic_t interrupts;
static int nowhere;

static void handler(int signal) {
    struct timespec now;
    (void)signal;
    void *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    KEEP(page);
    munmap(page, 4096);
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (write(nowhere, &now, sizeof now) != sizeof now)
        _exit(74);
    interrupts++;
}

static void fill(char *block, char mark, size_t size) {
    memset(block, mark, size);
    KEEP(block);
}

static int is_filled(const char *block, char mark, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (block[i] != mark)
            return 0;
    return 1;
}

static unsigned long long allocate_until_enough(void) {
    unsigned long long wrong = 0;
    while (interrupts < INTERRUPTS) {
        char *block = malloc(100), *zeroed = calloc(opaque(10), 50);
        void *aligned = NULL;
        if (block == NULL || zeroed == NULL || posix_memalign(&aligned, 64, 640) != 0)
            _exit(71);
        wrong += !is_filled(zeroed, 0, 500) + ((uintptr_t)aligned % 64 != 0);
        fill(zeroed, 3, 500);
        fill(block, 1, 100);
        block = realloc(block, 5000);
        KEEP(block);
        wrong += !is_filled(block, 1, 100);
        fill(block, 2, 5000);
        free(aligned);
        free(zeroed);
        free(block);
    }
    return wrong;
}

SCENARIO scenario(void) {
    for (size_t i = 0; i < opaque(100); i++)
        KEEP(malloc(300));
}

int main(int argc, char **argv) {
    static char stack[1 << 16];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    struct itimerval often = {{0, 200}, {0, 200}}, never = {{0, 0}, {0, 0}};
    if (argc > 1 && strcmp(argv[1], "alternate") == 0) {
        action.sa_flags |= SA_ONSTACK;
        if (sigaltstack(&alternate, NULL) != 0)
            _exit(70);
    }
    sigaction(SIGALRM, &action, NULL);
    nowhere = open("/dev/null", O_WRONLY);
    await_go();
    setitimer(ITIMER_REAL, &often, NULL);
    print_result("wrong", allocate_until_enough());
    setitimer(ITIMER_REAL, &never, NULL);
    scenario();
    account(30000, 100);
    done();
    return 3;
}
