// Every form of operator new is called repeatedly for more memory than there is:
//
//   all             bad_alloc is thrown, and caught; nothrow forms return nothing
//   nothrow         the latter alone
//   handler-throws  the new_handler throws its own bad_alloc
//   handler-jumps   it jumps out of operator new
//   handler-exits   it ends the thread
//   handler-frees   it frees memory (under a limit of address space), and operator new tries again
#include "scenario.h"
#include <csetjmp>
#include <new>
#include <pthread.h>
#include <sys/resource.h>

enum { ROUNDS = 25 };

static constexpr std::align_val_t LINE{64};

static size_t too_much() {
    return opaque((size_t)1 << 62);
}

typedef void *(*Form)(size_t);

static void *plain(size_t size) {
    return ::operator new(size);
}
static void *array(size_t size) {
    return ::operator new[](size);
}
static void *aligned(size_t size) {
    return ::operator new(size, LINE);
}
static void *aligned_array(size_t size) {
    return ::operator new[](size, LINE);
}
static void *plain_or_none(size_t size) {
    return ::operator new(size, std::nothrow);
}
static void *array_or_none(size_t size) {
    return ::operator new[](size, std::nothrow);
}
static void *aligned_or_none(size_t size) {
    return ::operator new(size, LINE, std::nothrow);
}
static void *aligned_array_or_none(size_t size) {
    return ::operator new[](size, LINE, std::nothrow);
}

static const Form forms[] = {plain,         array,         aligned,         aligned_array,
                             plain_or_none, array_or_none, aligned_or_none, aligned_array_or_none};
static const Form *const nothrow_forms = forms + 4;
static const Form throwing_forms[] = {plain, array, aligned, aligned_array};

static void ask_for_too_much(const Form *first) {
    unsigned thrown = 0, refused = 0;
    for (int i = 0; i < ROUNDS; i++)
        for (const Form *form = first; form != forms + 8; form++) {
            try {
                void *block = (*form)(too_much());
                KEEP(block);
                refused += block == nullptr;
            } catch (const std::bad_alloc &) {
                thrown++;
            }
        }
    print_result("thrown", thrown);
    print_result("refused", refused);
}

struct Refusal : std::bad_alloc {};

static void refuse() {
    throw Refusal();
}

static jmp_buf back;

static void jump() {
    longjmp(back, 1);
}

static void jump_out_of_all() {
    volatile unsigned jumps = 0;
    for (volatile int i = 0; i < ROUNDS; i++)
        for (const Form *volatile form = throwing_forms; form != throwing_forms + 4; form++) {
            if (setjmp(back) == 0)
                KEEP((*form)(too_much()));
            else
                jumps++;
        }
    print_result("jumps", jumps);
}

static void end_thread() {
    pthread_exit((void *)1);
}

static unsigned cleaned_up;

struct Cleaner {
    ~Cleaner() {
        cleaned_up++;
    }
};

static void *ask_and_end(void *form) {
    Cleaner cleaner;
    KEEP((*(const Form *)form)(too_much()));
    return nullptr;
}

static void end_threads() {
    unsigned ended = 0;
    for (int i = 0; i < ROUNDS; i++)
        for (const Form &form : throwing_forms) {
            pthread_t thread;
            void *result = nullptr;
            if (pthread_create(&thread, nullptr, ask_and_end, (void *)&form) != 0)
                _exit(70);
            pthread_join(thread, &result);
            ended += result == (void *)1;
        }
    print_result("ended", ended);
    print_result("cleaned up", cleaned_up);
}

static void *ballast;
static unsigned relieved;

static void limit_address_space(rlim_t bytes) {
    rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) != 0)
        _exit(75);
    limit.rlim_cur = bytes;
    if (setrlimit(RLIMIT_AS, &limit) != 0)
        _exit(75);
}

static void make_room() {
    free(ballast);
    ballast = nullptr;
    limit_address_space(RLIM_INFINITY);
    relieved++;
}

static void ask_while_short() {
    for (int i = 0; i < ROUNDS; i++)
        for (Form form : throwing_forms) {
            ballast = malloc(opaque(10000));
            KEEP(ballast);
            limit_address_space(4096);
            void *block = form(opaque((size_t)100 << 20));
            KEEP(block);
            limit_address_space(RLIM_INFINITY);
            free(ballast);
            ballast = nullptr;
            form == aligned || form == aligned_array ? ::operator delete(block, LINE)
                                                     : ::operator delete(block);
        }
    print_result("relieved", relieved > 0);
}

SCENARIO scenario() {
    for (int i = 0; i < 10; i++)
        for (Form form : forms)
            KEEP(form(128));
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    await_go();
    if (strcmp(mode, "all") == 0) {
        ask_for_too_much(forms);
    } else if (strcmp(mode, "nothrow") == 0) {
        ask_for_too_much(nothrow_forms);
    } else if (strcmp(mode, "handler-throws") == 0) {
        std::set_new_handler(refuse);
        ask_for_too_much(forms);
    } else if (strcmp(mode, "handler-jumps") == 0) {
        std::set_new_handler(jump);
        jump_out_of_all();
    } else if (strcmp(mode, "handler-exits") == 0) {
        std::set_new_handler(end_thread);
        end_threads();
    } else if (strcmp(mode, "handler-frees") == 0) {
        std::set_new_handler(make_room);
        ask_while_short();
    } else {
        return 64;
    }
    std::set_new_handler(nullptr);
    scenario();
    account(80 * 128, 80);
    done();
    return 3;
}
