/* Threads in every state that a stop may meet.
 *
 *   paused [COMMAND...]   each is done before "ready"; at the end of its input it ends
 *     vector      a thread waits with a value in a vector register, inverted in memory
 *     vfork       a thread is in vfork(2): its child ends with this process
 *     leave       the first thread ends, others live on
 *     threads N   N threads that come and go all the time
 *     signals     counts SIGRTMIN (queued by the sender) and SIGCONT in handlers: SUM is that of
 *                 the values sent
 *     raises      a thread sends itself signals all the time: one that is lost is a mistake
 *     work        computes all the time
 *
 * Prints "vector VALUE" where that is asked, and for each line of its input "done RECEIVED SUM
 * CONTINUED STEPS MISTAKES". x86-64 only. */
#include "scenario.h"
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static volatile uint64_t received, sum, continued, steps, mistakes;

static void on_signal(int number, siginfo_t *info, void *unused) {
    (void)unused;
    if (number == SIGCONT) {
        continued++;
        return;
    }
    received++;
    sum += (uint64_t)info->si_value.sival_int;
}

static __thread volatile uint64_t of_itself;

static void on_own_signal(int number) {
    (void)number;
    of_itself++;
}

static void *raise_signals(void *unused) {
    for (uint64_t sent = 1;; sent++) {
        pthread_kill(pthread_self(), SIGRTMIN + 1);
        if (of_itself != sent) {
            mistakes++;
            of_itself = sent;
        }
        steps++;
    }
    return unused;
}

static void *wait_with_vector(void *inverted) {
    __asm__ volatile("movq %0, %%xmm9\n"
                     "pcmpeqd %%xmm10, %%xmm10\n"
                     "pxor %%xmm10, %%xmm9\n" /* the value, but in no other register */
                     "1: mov %1, %%eax\n"
                     "syscall\n"
                     "jmp 1b\n" ::"r"(inverted),
                     "i"(SYS_pause)
                     : "rax", "rcx", "r11", "xmm9", "xmm10", "memory");
    return NULL;
}

static void *fork_in_place(void *unused) {
    if (vfork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    return unused;
}

static void *end_at_once(void *unused) {
    return unused;
}

static void *come_and_go(void *unused) {
    for (;;) {
        pthread_t thread;

        if (pthread_create(&thread, NULL, end_at_once, NULL) == 0)
            pthread_join(thread, NULL);
    }
    return unused;
}

static void *wait_for_ever(void *unused) {
    for (;;)
        pause();
    return unused;
}

/* Results that depend on every register that is used, also on those of the FPU. */
static void *work(void *unused) {
    for (;;) {
        uint64_t state = 88172645463325252ull, whole = 0;
        double part = 0;

        for (unsigned i = 1; i <= 1000; i++) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            whole += state % i;
            part += (double)(state % i) / 2;
        }
        if (whole != (uint64_t)(2 * part))
            mistakes++;
        steps++;
    }
    return unused;
}

static void start(void *(*what)(void *), void *argument) {
    pthread_attr_t small;
    pthread_t thread;

    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 << 10);
    if (pthread_create(&thread, &small, what, argument) != 0)
        _exit(70);
}

static void tell(const char *what, const uint64_t *numbers, size_t count) {
    char line[120];
    char *end = line + strlen(what);

    memcpy(line, what, strlen(what));
    for (size_t at = 0; at < count; at++) {
        *end++ = ' ';
        end = put_number(end, numbers[at]);
    }
    *end++ = '\n';
    *end = '\0';
    say(line);
}

static void *answer(void *unused) {
    char line[64];

    while (read_line(line, sizeof line)) {
        uint64_t numbers[] = {received, sum, continued, steps, mistakes};
        tell("done", numbers, sizeof numbers / sizeof *numbers);
    }
    _exit(0);
    return unused;
}

int main(int count, char **arguments) {
    int leaves = 0;

    for (int at = 1; at < count; at++) {
        const char *command = arguments[at];

        if (strcmp(command, "vector") == 0) {
            uint64_t value = 0xFEDCBA9876543210ull;
            tell("vector", &value, 1);
            start(wait_with_vector, (void *)~value);
        } else if (strcmp(command, "vfork") == 0) {
            start(fork_in_place, NULL);
        } else if (strcmp(command, "leave") == 0) {
            leaves = 1;
        } else if (strcmp(command, "threads") == 0 && at + 1 < count) {
            for (int number = atoi(arguments[++at]); number > 0; number--)
                start(number % 100 == 1 ? come_and_go : wait_for_ever, NULL);
        } else if (strcmp(command, "signals") == 0) {
            struct sigaction action = {.sa_sigaction = on_signal,
                                       .sa_flags = SA_SIGINFO | SA_RESTART};
            sigaction(SIGRTMIN, &action, NULL);
            sigaction(SIGCONT, &action, NULL);
        } else if (strcmp(command, "raises") == 0) {
            signal(SIGRTMIN + 1, on_own_signal);
            start(raise_signals, NULL);
        } else if (strcmp(command, "work") == 0) {
            start(work, NULL);
        } else {
            return 64;
        }
    }
    start(answer, NULL);
    say("ready\n");
    if (leaves)
        pthread_exit(NULL);
    for (;;)
        pause();
}
