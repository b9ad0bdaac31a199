/* Threads that wait in pause(2) with values that are nowhere but in their registers.
 *
 *   registers COUNT [spin]   COUNT threads that wait; "spin": and one that runs all the time
 *
 * Each says "holds TID FS_BASE RBX R12 R13 R14 R15" before. A line "leave" ends the first thread
 * only, another one the process. x86-64 only. */
#include "scenario.h"
#include <pthread.h>
#include <sys/syscall.h>

enum { HELD = 5 };

static pthread_mutex_t one_says = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t all_have_said;

/* A value by which the thread and the register are known, and that is no address. */
static uint64_t value_of(uint64_t tid, uint64_t index) {
    return 0xA11ull << 52 | tid << 8 | index;
}

static void say_what_it_holds(uint64_t tid) {
    char line[200] = "holds ";
    char *end = put_number(line + 6, tid);
    uint64_t numbers[1 + HELD] = {(uint64_t)pthread_self()};

    for (uint64_t index = 0; index < HELD; index++)
        numbers[1 + index] = value_of(tid, index);
    for (size_t at = 0; at < 1 + HELD; at++) {
        *end++ = ' ';
        end = put_number(end, numbers[at]);
    }
    *end++ = '\n';
    *end = '\0';
    pthread_mutex_lock(&one_says);
    say(line);
    pthread_mutex_unlock(&one_says);
}

static void *wait_with_values(void *unused) {
    uint64_t tid = (uint64_t)syscall(SYS_gettid);

    say_what_it_holds(tid);
    pthread_barrier_wait(&all_have_said);
    __asm__ volatile("mov %0, %%rbx\n"
                     "lea 1(%%rbx), %%r12\n"
                     "lea 2(%%rbx), %%r13\n"
                     "lea 3(%%rbx), %%r14\n"
                     "lea 4(%%rbx), %%r15\n"
                     "1: mov %1, %%eax\n"
                     "syscall\n"
                     "jmp 1b\n" ::"r"(value_of(tid, 0)),
                     "i"(SYS_pause)
                     : "rax", "rbx", "rcx", "r11", "r12", "r13", "r14", "r15", "memory");
    return unused;
}

static void *spin(void *unused) {
    for (;;)
        __asm__ volatile("pause");
    return unused;
}

static void start(void *(*work)(void *)) {
    pthread_attr_t small;
    pthread_t thread;

    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 << 10);
    if (pthread_create(&thread, &small, work, NULL) != 0)
        _exit(70);
}

int main(int count, char **arguments) {
    unsigned waiting = count > 1 ? (unsigned)atoi(arguments[1]) : 0;
    char line[64];

    pthread_barrier_init(&all_have_said, NULL, waiting + 1);
    for (unsigned i = 0; i < waiting; i++)
        start(wait_with_values);
    pthread_barrier_wait(&all_have_said);
    if (count > 2)
        start(spin);
    say("ready\n");
    if (read_line(line, sizeof line) && strcmp(line, "leave") == 0)
        pthread_exit(NULL);
    return 0;
}
