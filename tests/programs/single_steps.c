/* Steps through its own code, one instruction at a time, and writes the stack at many of them:
 * single_steps FILE SCENARIO [NUMBER]. The trap flag makes the processor raise SIGTRAP after each
 * instruction; the handler finds the registers in its ucontext, and the frames with backtrace(3).
 *
 * FILE holds one record per stop, all numbers of eight bytes: ip, sp, bp, whether a function has
 * just returned, how many frames, how many areas of memory; the frames, innermost first; and of
 * each area its address, its size, its bytes.
 *
 * SCENARIO is the code that is stepped through:
 *
 *   kinds        a callback of qsort, recursion, alloca, a realigned frame, a signal handler, a
 *                function that is bound lazily
 *   alternate    the same, with the handler on a signal stack
 *   thread       the same, in a thread
 *   deep NUMBER  under NUMBER frames of one function
 *   generated    called by code without unwind information, which keeps a frame pointer
 *   vdso         in clock_gettime
 *   coroutine    on a stack of makecontext
 */
#include "scenario.h"
#include <alloca.h>
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>

enum { MOST_STOPS = 300, MOST_FRAMES = 300, AREAS = 2, RED_ZONE = 128 };
enum { STACK_BYTES = 1 << 16, NOTED_BYTES = 1 << 14 };
enum { EACH_UP_TO = 40, STRIDE = 31, MOST_RETURNS = 100, TRAP_FLAG = 0x100, RET = 0xc3 };

#ifdef FRAME_POINTER
#define ALSO_RBP
#else
#define ALSO_RBP , "rbp" /* has to be saved, and has changed */
#endif

struct area {
    uint64_t start, end;
};

static int output;
static uint64_t instructions, stops, returns;
static volatile int is_stepping;
static struct area areas[AREAS]; /* stacks; the first is the one that main or a thread runs on */
static void *frames[MOST_FRAMES], *outer_frames[MOST_FRAMES], *generated_return;
static int outer_count;       /* of the frames of call_generated */
static uint64_t generated_at; /* where the generated code is; 0: nowhere */
static char other_stack[STACK_BYTES];
extern void *__libc_stack_end;

static void put(const void *data, size_t bytes) {
    if (write(output, data, bytes) != (ssize_t)bytes)
        _exit(70);
}

/* Only what is in use: from below the red zone on. */
static struct area in_use(const struct area *area, uint64_t sp) {
    struct area used = *area;
    if (sp - area->start < area->end - area->start)
        used.start = sp - RED_ZONE;
    else if (used.end - used.start > NOTED_BYTES)
        used.start = used.end - NOTED_BYTES;
    return used;
}

static void write_stop(const greg_t *registers, uint64_t has_returned) {
    uint64_t sp = (uint64_t)registers[REG_RSP];
    int count = backtrace(frames, MOST_FRAMES), first = 0;

    while (first < count && (greg_t)frames[first] != registers[REG_RIP])
        first++;
    /* backtrace ends in code without unwind information; its caller is known here. */
    if (generated_at && (uint64_t)frames[count - 1] - generated_at < 64) {
        frames[count++] = generated_return;
        for (int i = 1; i < outer_count; i++)
            frames[count++] = outer_frames[i];
    }
    uint64_t head[] = {(uint64_t)registers[REG_RIP], sp,
                       (uint64_t)registers[REG_RBP], has_returned,
                       (uint64_t)(count - first),    AREAS};
    put(head, sizeof head);
    put(frames + first, (size_t)(count - first) * sizeof frames[0]);
    for (int i = 0; i < AREAS; i++) {
        struct area used = in_use(&areas[i], sp);
        uint64_t size[] = {used.start, used.end - used.start};
        put(size, sizeof size);
        put((const void *)used.start, size[1]);
    }
}

static void at_instruction(int signal, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    (void)signal;
    static uint8_t previous; /* the first byte of the instruction before */
    int has_returned = previous == RET && returns < MOST_RETURNS;
    (void)info;
    if (is_stepping && (instructions < EACH_UP_TO || instructions % STRIDE == 0 || has_returned)) {
        write_stop(registers, (uint64_t)has_returned);
        stops++;
        returns += (uint64_t)has_returned;
    }
    instructions++;
    previous = *(const uint8_t *)registers[REG_RIP];
    if (!is_stepping || stops == MOST_STOPS)
        registers[REG_EFL] &= ~TRAP_FLAG;
}

static void use_other_stack(stack_t *stack) {
    *stack = (stack_t){.ss_sp = other_stack, .ss_size = sizeof other_stack};
    areas[1] = (struct area){(uint64_t)other_stack, (uint64_t)other_stack + sizeof other_stack};
}

static inline __attribute__((always_inline)) void start_steps(void) {
    is_stepping = 1;
    __asm__ volatile("sub $128, %%rsp; pushf; orq $0x100, (%%rsp); popf; add $128, %%rsp" ::
                         : "memory", "cc");
}

static inline __attribute__((always_inline)) void end_steps(void) {
    is_stepping = 0;
    __asm__ volatile("" ::: "memory");
}

__attribute__((noinline)) static void leaf(size_t size) {
    start_steps();
    char *block = malloc(size); /* bound lazily: through the PLT and the dynamic linker */
    KEEP(block);
    free(block);
    for (size_t i = 0; i < opaque(4); i++) {
        block = malloc(size << 3 * i);
        KEEP(block);
        free(block);
    }
}

__attribute__((noinline)) static long realigned(size_t n) {
    _Alignas(64) char local[192];
    char *dynamic = alloca(n + 16);
    memset(local, (int)n, sizeof local);
    memset(dynamic, (int)n, n + 16);
    __asm__ volatile("" ::"r"(local), "r"(dynamic) : "memory", "rbx", "r12", "r13");
    leaf(n + 8);
    return local[3] + dynamic[1];
}

__attribute__((noinline)) static long recurse(size_t depth) {
    long result = depth > 0 ? recurse(depth - 1) : realigned(opaque(5));
    __asm__ volatile("" ::: "memory" ALSO_RBP);
    return result + (long)depth;
}

__attribute__((noinline)) static void interrupted(int signal) {
    recurse(opaque(3) + (size_t)(signal - SIGUSR1));
    end_steps();
}

static int compare(const void *left, const void *right) {
    static int was_raised;
    if (!was_raised) {
        was_raised = 1;
        raise(SIGUSR1);
    }
    return *(const int *)left - *(const int *)right;
}

static void *sort(void *unused) {
    int numbers[] = {3, 1, 2};
    qsort(numbers, 3, sizeof numbers[0], compare);
    return unused;
}

static void *sort_in_thread(void *unused) {
    pthread_attr_t attributes;
    void *start;
    size_t size;
    if (pthread_getattr_np(pthread_self(), &attributes) != 0 ||
        pthread_attr_getstack(&attributes, &start, &size) != 0)
        _exit(71);
    areas[0] = (struct area){(uint64_t)start, (uint64_t)start + size};
    return sort(unused);
}

__attribute__((noinline, noclone)) static void called_back(void *return_address) {
    generated_return = return_address;
    recurse(opaque(3));
    end_steps();
}

/* void f(void (*callback)(void *)) { callback(__builtin_return_address(0)); } */
static const unsigned char generated[] = {
    0x55,                   /* push %rbp */
    0x48, 0x89, 0xe5,       /* mov %rsp, %rbp */
    0x48, 0x89, 0xf8,       /* mov %rdi, %rax */
    0x48, 0x8b, 0x7d, 0x08, /* mov 8(%rbp), %rdi */
    0xff, 0xd0,             /* call *%rax */
    0x5d,                   /* pop %rbp */
    0xc3,                   /* ret */
};

__attribute__((noinline, noclone)) static void call_generated(void) {
    void *page =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        _exit(72);
    memcpy(page, generated, sizeof generated);
    generated_at = (uint64_t)page;
    outer_count = backtrace(outer_frames, MOST_FRAMES);
    ((void (*)(void (*)(void *)))page)(called_back);
    KEEP(page);
}

static void in_vdso(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now); /* binds it */
    start_steps();
    clock_gettime(CLOCK_MONOTONIC, &now);
    end_steps();
}

static void in_coroutine(void) {
    recurse(opaque(3));
    end_steps();
}

static void switch_stacks(void) {
    static ucontext_t here, there;
    if (getcontext(&there) != 0)
        _exit(73);
    use_other_stack(&there.uc_stack);
    there.uc_link = &here;
    makecontext(&there, in_coroutine, 0);
    swapcontext(&here, &there);
}

static void handle(int signal, int flags) {
    struct sigaction action = {.sa_handler = interrupted, .sa_flags = flags};
    if (sigaction(signal, &action, NULL) != 0)
        _exit(74);
}

static void start(const char *scenario, size_t number) {
    pthread_t thread;
    if (strcmp(scenario, "kinds") == 0) {
        sort(NULL);
    } else if (strcmp(scenario, "alternate") == 0) {
        stack_t alternate;
        use_other_stack(&alternate);
        if (sigaltstack(&alternate, NULL) != 0)
            _exit(76);
        handle(SIGUSR1, SA_ONSTACK);
        sort(NULL);
    } else if (strcmp(scenario, "thread") == 0) {
        if (pthread_create(&thread, NULL, sort_in_thread, NULL) != 0)
            _exit(75);
        pthread_join(thread, NULL);
    } else if (strcmp(scenario, "deep") == 0) {
        recurse(number);
    } else if (strcmp(scenario, "generated") == 0) {
        call_generated();
    } else if (strcmp(scenario, "vdso") == 0) {
        in_vdso();
    } else {
        switch_stacks();
    }
    end_steps();
}

int main(int count, char **words) {
    struct sigaction each = {.sa_sigaction = at_instruction, .sa_flags = SA_SIGINFO};
    if (count < 3 || (output = open(words[1], O_WRONLY | O_CREAT | O_TRUNC, 0600)) < 0)
        return 2;
    areas[0] =
        (struct area){(uint64_t)__libc_stack_end - (1 << 20), (uint64_t)__libc_stack_end + 8};
    backtrace(frames, MOST_FRAMES); /* loads the unwinder */
    free(NULL);                     /* binds it */
    sigaction(SIGTRAP, &each, NULL);
    handle(SIGUSR1, 0);
    start(words[2], count > 3 ? strtoul(words[3], NULL, 10) : 0);
    say("ready\n"); /* the test reads the mappings and the code */
    await_line();
    return 0;
}
