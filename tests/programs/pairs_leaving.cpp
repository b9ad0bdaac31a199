/* A pair of functions that are left in unusual ways: by an exception, by longjmp, by switching to
 * another stack and back, by a signal whose handler calls them again, by the end of the thread.
 * Says "done BYTES COUNT" of what is outstanding, and behaves the same if it isn't traced. */
#include "scenario.h"
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdexcept>
#include <ucontext.h>

static unsigned long long bytes, count;
static char room[1 << 20];
static size_t used;
static jmp_buf out;
static ucontext_t outside, inside;

enum how { PLAIN, THROW, JUMP, YIELD, SIGNAL, END };

static __attribute__((noinline, noclone)) void leave(enum how how) {
    switch (how) {
    case THROW:
        throw std::runtime_error("no thing");
    case JUMP:
        longjmp(out, 1);
    case YIELD:
        swapcontext(&inside, &outside);
        break;
    case SIGNAL:
        raise(SIGUSR1);
        break;
    case END:
        pthread_exit(NULL);
    default:
        break;
    }
}

/* The compiler may turn a switch into a table of jumps, which can't be followed here. */
extern "C" __attribute__((noinline, noclone)) void *thing_take(enum how how, size_t size) {
    leave(how);
    void *thing = room + used;
    used += (size + 16) & ~15ul;
    return thing;
}

extern "C" __attribute__((noinline, noclone)) void thing_give(void *thing) {
    KEEP(thing);
}

static void keep(enum how how, size_t size) {
    KEEP(thing_take(how, size));
    bytes += size;
    count++;
}

static void on_signal(int) {
    keep(PLAIN, 5);
    thing_give(thing_take(PLAIN, 6));
}

static void in_coroutine() {
    keep(YIELD, 1000);
    swapcontext(&inside, &outside);
}

SCENARIO throwing() {
    for (int i = 0; i < (int)opaque(20); i++) {
        try {
            thing_take(THROW, 7);
            _exit(90);
        } catch (const std::runtime_error &) {
            keep(PLAIN, 10);
        }
    }
}

SCENARIO jumping() {
    for (volatile int i = 0; i < (int)opaque(20); i++) {
        if (setjmp(out) == 0) {
            thing_take(JUMP, 7);
            _exit(91);
        }
        keep(PLAIN, 20);
    }
}

SCENARIO yielding() {
    static char stack[1 << 16];
    for (int i = 0; i < (int)opaque(10); i++) {
        getcontext(&inside);
        inside.uc_stack.ss_sp = stack;
        inside.uc_stack.ss_size = sizeof stack;
        inside.uc_link = &outside;
        makecontext(&inside, in_coroutine, 0);
        swapcontext(&outside, &inside); /* it is inside thing_take now */
        keep(PLAIN, 30);
        swapcontext(&outside, &inside); /* and has returned */
    }
}

SCENARIO signalling() {
    signal(SIGUSR1, on_signal);
    for (int i = 0; i < (int)opaque(10); i++) {
        bytes -= 5; /* the handler's call is part of the one that it interrupts */
        count--;
        keep(SIGNAL, 40);
    }
}

static void *in_thread(void *) {
    thing_take(END, 50);
    return NULL;
}

SCENARIO ending() {
    for (int i = 0; i < (int)opaque(10); i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, in_thread, NULL))
            _exit(92);
        pthread_join(thread, NULL);
    }
    keep(PLAIN, 60);
}

int main(int argc, char **argv) {
    char line[64];
    void (*work[])() = {throwing, jumping, yielding, signalling, ending};
    const char *names[] = {"throwing", "jumping", "yielding", "signalling", "ending"};

    say("ready\n");
    while (read_line(line, sizeof line)) {
        bytes = count = 0;
        for (int i = 0; i < 5; i++)
            if (!strcmp(line, names[i]))
                work[i]();
        char answer[80] = "done ";
        char *end = put_number(answer + 5, bytes);
        *end++ = ' ';
        end = put_number(end, count);
        *end++ = '\n';
        *end = '\0';
        say(answer);
    }
    return 0;
}
