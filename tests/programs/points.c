/* Functions whose instruction in the middle is probed, one for each kind that carries probes. Each
 * returns 3 * n + 1, and is called by threads while SIGALRM arrives all the time.
 *
 *   NAME THREADS CALLS    "done WRONG COUNT": results that were wrong, and calls, those of the
 *                         signal handler included
 *   fork                  "done PID COUNT": a child that lives until its parent ends
 *
 * The function NAME has its probe at the symbol NAME_point.
 */
#include "scenario.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/time.h>

enum { MAX_THREADS = 16, ALARM_US = 200, IN_HANDLER = 7 };

typedef long function_type(long);
function_type on_jcc, on_jmp, on_call, on_push, on_nop, on_ret;

/* clang-format off */
__asm__(
    ".macro begin name\n"
    "    .globl \\name, \\name\\()_point\n"
    "    .type \\name, @function\n"
    "    .type \\name\\()_point, @function\n"
    "    .p2align 4\n"
    "\\name:\n"
    ".endm\n"
    ".macro end name\n"
    "    .size \\name, . - \\name\n"
    "    .size \\name\\()_point, . - \\name\\()_point\n"
    ".endm\n"
    "    .text\n"
    "begin on_jcc\n"
    "    lea 1(%rdi,%rdi,2), %rax\n"
    "    test $1, %dil\n"
    "on_jcc_point:\n"
    "    jne 1f\n"
    "    mov %rax, %rdx\n"
    "1:  ret\n"
    "end on_jcc\n"
    "begin on_jmp\n"
    "    lea 1(%rdi,%rdi,2), %rax\n"
    "on_jmp_point:\n"
    "    jmp 1f\n"
    "    xor %eax, %eax\n"
    "1:  ret\n"
    "end on_jmp\n"
    "triple:\n"
    "    lea 1(%rdi,%rdi,2), %rax\n"
    "    ret\n"
    "begin on_call\n"
    "    sub $8, %rsp\n"
    "on_call_point:\n"
    "    call triple\n"
    "    add $8, %rsp\n"
    "    ret\n"
    "end on_call\n"
    "begin on_push\n"
    "    lea 1(%rdi,%rdi,2), %rax\n"
    "on_push_point:\n"
    "    push %rax\n"
    "    xor %eax, %eax\n"
    "    pop %rax\n"
    "    ret\n"
    "end on_push\n"
    "begin on_nop\n"
    "    lea 1(%rdi,%rdi,2), %rax\n"
    "    mov %rax, -8(%rsp)\n"
    "on_nop_point:\n"
    "    nop\n"
    "    mov -8(%rsp), %rax\n"
    "    ret\n"
    "end on_nop\n"
    "begin on_ret\n"
    "    lea 1(%rdi,%rdi,2), %rax\n"
    "on_ret_point:\n"
    "    ret\n"
    "end on_ret\n");
/* clang-format on */

static const struct {
    const char *name;
    function_type *function;
} functions[] = {
    {"on_jcc", on_jcc},   {"on_jmp", on_jmp}, {"on_call", on_call},
    {"on_push", on_push}, {"on_nop", on_nop}, {"on_ret", on_ret},
};

static function_type *function;
static unsigned long calls_each;
static unsigned long wrong, calls; /* changed atomically */

static void call(long number) {
    if (function(number) != 3 * number + 1)
        __atomic_add_fetch(&wrong, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
}

static void on_alarm(int signal_number) {
    (void)signal_number;
    call(IN_HANDLER);
}

static void *work(void *unused) {
    (void)unused;
    for (unsigned long i = 0; i < calls_each; i++)
        call((long)i);
    return NULL;
}

static void set_alarms(long interval_us) {
    struct itimerval interval = {{0, interval_us}, {0, interval_us}};
    setitimer(ITIMER_REAL, &interval, NULL);
}

static void run(int count) {
    pthread_t threads[MAX_THREADS];
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    wrong = calls = 0;
    set_alarms(ALARM_US);
    for (int i = 0; i < count; i++)
        if (pthread_create(&threads[i], NULL, work, NULL) != 0)
            _exit(79);
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    set_alarms(0);
}

static void answer(unsigned long first, unsigned long second) {
    char line[80] = "done ";
    char *end = put_number(line + 5, first);
    *end++ = ' ';
    end = put_number(end, second);
    memcpy(end, "\n", 2);
    say(line);
}

static pid_t start_child(void) {
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    return child;
}

int main(void) {
    char line[96], name[16];
    int threads;
    say("ready\n");
    while (read_line(line, sizeof line)) {
        if (strcmp(line, "fork") == 0) {
            answer((unsigned long)start_child(), 0);
            continue;
        }
        if (sscanf(line, "%15s %d %lu", name, &threads, &calls_each) != 3 || threads > MAX_THREADS)
            return 64;
        function = NULL;
        for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
            if (strcmp(functions[i].name, name) == 0)
                function = functions[i].function;
        if (function == NULL)
            return 65;
        run(threads);
        answer(wrong, calls);
    }
    return 0;
}
