// Blocks that are held in known ways, for a look at the heap without a trace. It says "thread TID"
// of the thread that holds some; "done" answers each line of its input:
//
//   all          make the blocks
//   grow COUNT   make COUNT more sessions
//   exit         end
#include "scenario.h"
#include <pthread.h>
#include <sys/syscall.h>

namespace shop {

struct Session {
    virtual ~Session() = default;
    Session *next = nullptr;
    void *buffer = nullptr;
    long values[10] = {};
};

Session *sessions; // a list, each with a buffer
} // namespace shop

enum Size : size_t { buffer_size = 504, stack_size = 1064, vector_size = 1128, local_size = 1192 };

static char *volatile titles[200];
static thread_local void *volatile local_holder[8];
static pthread_barrier_t ready;
static void *volatile for_vector[2];

static void *zeros(size_t size) {
    void *block = malloc(opaque(size));
    if (block == nullptr)
        _exit(71);
    memset(block, 0, size);
    KEEP(block);
    return block;
}

extern "C" {

// What calls have left on the stack is no pointer any more.
__attribute__((noinline)) static void scrub() {
    volatile char unused[8192];
    for (size_t i = 0; i < sizeof unused; i++)
        unused[i] = 0;
}

// The pointers go from memory to the register, and are cleared in memory.
__attribute__((noinline)) static void hold_in_thread() {
    void *volatile here[24];
    for (auto &one : here)
        one = zeros(stack_size);
    for (auto &one : local_holder)
        one = zeros(local_size);
    print_result("thread", (unsigned long long)syscall(SYS_gettid));
    for (auto &one : for_vector)
        one = zeros(vector_size);
    scrub();
    pthread_barrier_wait(&ready);
    __asm__ volatile("movdqu (%0), %%xmm9\n"
                     "movq $0, (%0)\n"
                     "movq $0, 8(%0)\n"
                     "1: pause\n"
                     "jmp 1b\n" ::"r"(for_vector),
                     "r"(here)
                     : "xmm9", "memory");
}

static void *run(void *unused) {
    hold_in_thread();
    return unused;
}

SCENARIO make_sessions(size_t count) {
    for (size_t i = 0; i < count; i++) {
        auto *one = new shop::Session;
        one->buffer = zeros(buffer_size);
        one->next = shop::sessions;
        shop::sessions = one;
    }
}

SCENARIO make_all() {
    pthread_t thread;
    make_sessions(5000);
    for (size_t i = 0; i < opaque(100); i++) // these are lost
        zeros(buffer_size);
    for (auto &one : titles) {
        one = static_cast<char *>(zeros(72));
        strcpy(one, "title of a page");
    }
    pthread_barrier_init(&ready, nullptr, 2);
    if (pthread_create(&thread, nullptr, run, nullptr) != 0)
        _exit(72);
    pthread_barrier_wait(&ready);
    while (for_vector[1] != nullptr)
        ;
}

} // extern "C"

int main() {
    char line[64];
    say("ready\n");
    while (read_line(line, sizeof line)) {
        if (strcmp(line, "all") == 0)
            make_all();
        else if (strncmp(line, "grow ", 5) == 0)
            make_sessions(strtoul(line + 5, nullptr, 10));
        else
            break;
        scrub();
        say("done\n");
    }
    _exit(0);
}
