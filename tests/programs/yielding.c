/* A program's own malloc and free yield to other coroutines, as when they wait for a lock: calls
 * end in another order than they began, on many stacks in one thread.
 *
 *   COUNT        that many coroutines in one thread
 *   COUNT moves  in two threads, which take the coroutines over from each other
 */
#include "own_malloc.h"
#include <pthread.h>
#include <sys/mman.h>
#include <ucontext.h>

enum { MOST = 50, BLOCKS = 20, STACK_BYTES = 1 << 16 };

struct coroutine {
    ucontext_t context;
    ucontext_t *scheduler; /* whose turn it is part of */
    int has_ended;
};

static struct coroutine coroutines[MOST];
static int coroutine_count;
static pthread_barrier_t together;
static _Thread_local struct coroutine *current;

/* Not inlined: a thread's variables are at another address after a move. */
__attribute__((noinline, noclone)) static struct coroutine *running(void) {
    struct coroutine *me = current;
    KEEP(me);
    return me;
}

static void yield_now(void) {
    struct coroutine *me = running();
    if (me != NULL)
        swapcontext(&me->context, me->scheduler);
}

static void inside(void) {
    yield_now();
}

SCENARIO scenario(void) {
    for (size_t i = 0; i < opaque(BLOCKS); i++) {
        KEEP(malloc(128));
        free(malloc(64));
        yield_now();
    }
}

static void run_coroutine(void) {
    scenario();
    struct coroutine *me = running();
    me->has_ended = 1;
    swapcontext(&me->context, me->scheduler);
    _exit(79); /* not reached */
}

/* Those of one half, each once, in a different order every time. */
static int run_those(int first) {
    static unsigned turn;
    ucontext_t scheduler;
    int left = 0, half = (coroutine_count - first + 1) / 2;
    unsigned start = __atomic_fetch_add(&turn, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < half; i++) {
        int place = (int)((start + i) % half); /* they begin with another one, */
        if (start / 3 % 2)
            place = half - 1 - place; /* and go the other way round now and then */
        struct coroutine *next = &coroutines[first + 2 * place];
        if (next->has_ended)
            continue;
        next->scheduler = &scheduler;
        current = next;
        swapcontext(&scheduler, &next->context);
        current = NULL;
        left += !next->has_ended;
    }
    return left;
}

/* One half of the coroutines in a turn, in the next the other one. */
static void *take_turns(void *argument) {
    int half = (int)(size_t)argument;
    for (int turn = 0; turn < 8 * BLOCKS; turn++) {
        run_those((half + turn) % 2);
        pthread_barrier_wait(&together);
    }
    return NULL;
}

int main(int argc, char **argv) {
    coroutine_count = argc > 1 ? atoi(argv[1]) : 0;
    if (coroutine_count < 1 || coroutine_count > MOST)
        return 64;
    for (int i = 0; i < coroutine_count; i++) {
        struct coroutine *new = &coroutines[i];
        void *stack =
            mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stack == MAP_FAILED || getcontext(&new->context) != 0)
            _exit(70);
        new->context.uc_stack.ss_sp = stack;
        new->context.uc_stack.ss_size = STACK_BYTES;
        makecontext(&new->context, run_coroutine, 0);
    }
    await_go();
    if (argc > 2) {
        pthread_t other;
        pthread_barrier_init(&together, NULL, 2);
        if (pthread_create(&other, NULL, take_turns, (void *)1) != 0)
            _exit(70);
        take_turns((void *)0);
        pthread_join(other, NULL);
    } else {
        while (run_those(0) + run_those(1) > 0)
            ;
    }
    int ended = 0;
    for (int i = 0; i < coroutine_count; i++)
        ended += coroutines[i].has_ended;
    print_result("ended", (unsigned long long)ended);
    account((unsigned long long)coroutine_count * BLOCKS * 128,
            (unsigned long long)coroutine_count * BLOCKS);
    done();
    return 3;
}
