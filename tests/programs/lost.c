/* Blocks of which it is known whether anything still points to them.
 *
 * Each is allocated by a function that says what is true of it (definite, indirect, possible,
 * reachable), called by one that says how it came about. "either": of these, one block is
 * definitely lost, and leads to the others.
 *
 *   lost [COMMAND]    each line of its input is a further command; it answers "done"
 *     all             all that follows in scenarios(); before "done", for each of its functions
 *                     "truth NAME DEFINITE INDIRECT POSSIBLE REACHABLE", in blocks
 *     threads         the same for pointers that only a thread has
 *     ended           the same for what threads have left that have ended, and for one that
 *                     lives on the stack of such a one
 *     vector          the same for one that is only in a vector register
 *     one             lose one block
 *     none            allocate one block, and keep it
 *     hide COUNT      keep blocks in a way that nobody can see
 *     find COUNT      free some of those
 *     carry           threads that start and end take pointers from slots onto their stacks, and
 *                     put them back, for ever
 *     move            two threads move pointers from slot to slot, for ever
 *
 * At the end of its input it ends. x86-64 only. */
#include "scenario.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>

enum { DEFINITE, INDIRECT, POSSIBLE, REACHABLE, KINDS };
enum { SIZE = 64, MOST_HIDDEN = 64, THREADS = 2 };
enum { CARRIED = 16 };
enum { SLOTS = 4 << 20, MOVED = 2000, WORK_BETWEEN_MOVES = 600 };

typedef void *volatile *Block;

static unsigned truth[KINDS];
static volatile Block kept_list, kept_graph[8], kept_holder, kept_empty;
static char *volatile kept_inside, *volatile kept_tail;
static volatile uintptr_t kept_tagged, hidden[MOST_HIDDEN];
static volatile Block shared_memory, sealed_memory, anonymous_memory;
static __thread void *volatile of_thread;
static pthread_barrier_t all_hold;

/* A block of zeros: what lay there before is no pointer any more. Not by calloc, which doesn't use
 * what was freed last. */
static inline Block block(int kind, size_t size) {
    void *found = malloc(size);
    if (found == NULL)
        _exit(71);
    KEEP(found);
    memset(found, 0, size);
    truth[kind]++;
    KEEP(found);
    return found;
}

#define KIND __attribute__((noinline, noclone)) static Block

KIND definite(size_t size) {
    return block(DEFINITE, size);
}

KIND indirect(size_t size) {
    return block(INDIRECT, size);
}

KIND possible(size_t size) {
    return block(POSSIBLE, size);
}

KIND reachable(size_t size) {
    return block(REACHABLE, size);
}

KIND either(size_t size) {
    return block(INDIRECT, size);
}

static void one_of_them_is_definite(void) {
    truth[INDIRECT]--;
    truth[DEFINITE]++;
}

/* What functions have left on the stack and in registers. */
__attribute__((noinline, noclone)) static void wipe(void) {
    volatile char room[128 << 10];
    memset((void *)room, 0, sizeof room);
    KEEP(room);
    __asm__ volatile("xor %%eax, %%eax\n xor %%ecx, %%ecx\n xor %%edx, %%edx\n"
                     "xor %%esi, %%esi\n xor %%edi, %%edi\n xor %%r8d, %%r8d\n"
                     "xor %%r9d, %%r9d\n xor %%r10d, %%r10d\n xor %%r11d, %%r11d\n" ::
                         : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory");
}

SCENARIO scenario_lost_list(void) {
    Block last = definite(SIZE);
    for (size_t i = 0; i < 99; i++) {
        Block next = indirect(SIZE);
        last[3] = (void *)next;
        last = next;
    }
}

SCENARIO scenario_kept_list(void) {
    Block last = kept_list = reachable(SIZE);
    for (size_t i = 0; i < 1500; i++) {
        Block next = reachable(SIZE);
        last[3] = (void *)next;
        last = next;
    }
}

SCENARIO scenario_lost_tree(void) {
    Block nodes[127];
    nodes[0] = definite(SIZE);
    for (size_t i = 1; i < 127; i++) {
        nodes[i] = indirect(SIZE);
        nodes[(i - 1) / 2][i % 2] = (void *)nodes[i];
    }
}

SCENARIO scenario_lost_cycle(void) {
    Block first = either(SIZE), last = first;
    for (size_t i = 0; i < 9; i++) {
        Block next = either(SIZE);
        last[0] = (void *)next;
        last = next;
    }
    last[0] = (void *)first;
    one_of_them_is_definite();
}

/* With what belongs to each member, at a lower address. */
SCENARIO scenario_lost_ring(void) {
    Block owned[10], members[10];
    for (size_t i = 0; i < 10; i++)
        owned[i] = indirect(SIZE);
    for (size_t i = 0; i < 10; i++)
        members[i] = either(SIZE);
    for (size_t i = 0; i < 10; i++) {
        members[i][0] = (void *)members[(i + 1) % 10];
        members[i][1] = (void *)members[(i + 9) % 10];
        members[i][2] = (void *)owned[i];
    }
    one_of_them_is_definite();
}

SCENARIO scenario_kept_ring(void) {
    Block first = reachable(SIZE), second = reachable(SIZE);
    first[0] = first[1] = (void *)second;
    second[0] = second[1] = (void *)first;
    kept_graph[0] = first;
}

SCENARIO scenario_points_to_itself(void) {
    Block lonely = definite(SIZE);
    lonely[0] = lonely[5] = (void *)lonely;
}

SCENARIO scenario_inside(void) {
    Block one = possible(SIZE);
    one[0] = (void *)possible(SIZE);
    kept_inside = (char *)one + 24;
    Block holder = reachable(SIZE);
    holder[1] = (void *)(possible(SIZE) + 2);
    kept_graph[1] = holder;
}

SCENARIO scenario_behind(void) {
    kept_tail = (char *)definite(SIZE) + SIZE;
}

SCENARIO scenario_lost_head_of_kept(void) {
    Block head = definite(SIZE);
    for (size_t i = 0; i < 4; i++)
        head[i] = (void *)(kept_graph[2 + i] = reachable(SIZE));
    head[5] = (void *)indirect(SIZE);
}

SCENARIO scenario_tagged(void) {
    kept_tagged = (uintptr_t)reachable(SIZE) | 5;
}

SCENARIO scenario_empty(void) {
    kept_empty = reachable(0);
    KEEP(definite(0));
}

SCENARIO scenario_freed_and_reused(void) {
    Block holder = reachable(1024);
    holder[100] = (void *)definite(SIZE);
    free((void *)holder);
    truth[REACHABLE]--;
    kept_holder = reachable(1024);
    kept_holder[50] = (void *)reachable(SIZE);
}

static Block pages(int flags) {
    void *mapped = mmap(NULL, 8192, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED)
        _exit(72);
    return mapped;
}

SCENARIO scenario_in_mapped_memory(void) {
    shared_memory = pages(MAP_SHARED);
    anonymous_memory = pages(MAP_PRIVATE);
    sealed_memory = pages(MAP_PRIVATE);
    shared_memory[600] = (void *)reachable(SIZE);
    anonymous_memory[600] = (void *)reachable(SIZE);
    sealed_memory[600] = (void *)reachable(SIZE);
    if (mprotect((void *)sealed_memory, 8192, PROT_READ) != 0)
        _exit(72);
}

/* Its pointer inverted is none. */
__attribute__((noinline, noclone)) static uintptr_t scenario_in_register(void) {
    return ~(uintptr_t)reachable(SIZE);
}

static void *wait_with_register(void *unused) {
    uintptr_t inverted = scenario_in_register();
    wipe();
    pthread_barrier_wait(&all_hold);
    __asm__ volatile(
        "mov %0, %%rbx\n not %%rbx\n 1: mov %1, %%eax\n syscall\n jmp 1b" ::"r"(inverted),
        "i"(SYS_pause)
        : "rax", "rbx", "rcx", "r11", "memory");
    return unused;
}

__attribute__((noinline, noclone)) static uintptr_t scenario_in_vector(void) {
    return ~(uintptr_t)reachable(2 * SIZE); /* not the same code as scenario_in_register() */
}

static void *wait_with_vector(void *unused) {
    uintptr_t inverted = scenario_in_vector();
    wipe();
    pthread_barrier_wait(&all_hold);
    __asm__ volatile("movq %0, %%xmm9\n pcmpeqd %%xmm10, %%xmm10\n pxor %%xmm10, %%xmm9\n"
                     "1: mov %1, %%eax\n syscall\n jmp 1b" ::"r"(inverted),
                     "i"(SYS_pause)
                     : "rax", "rcx", "r11", "xmm9", "xmm10", "memory");
    return unused;
}

__attribute__((noinline, noclone)) static void *scenario_of_thread(void) {
    of_thread = (void *)reachable(SIZE);
    void *volatile other = (void *)reachable(SIZE);
    return other;
}

/* Far below where the thread waits later. */
__attribute__((noinline, noclone)) static void leave_on_stack(void) {
    void *volatile room[2048];
    for (size_t i = 0; i < 2048; i++)
        room[i] = NULL;
    room[5] = (void *)definite(SIZE);
    KEEP(room);
}

SCENARIO scenario_old_stack(void) {
    leave_on_stack();
    __asm__ volatile("");
}

static void *wait_above_old_stack(void *unused) {
    wipe();
    leave_on_stack();
    pthread_barrier_wait(&all_hold);
    for (;;)
        pause();
    return unused;
}

static void *wait_with_stack(void *unused) {
    void *volatile on_stack = scenario_of_thread();
    wipe();
    pthread_barrier_wait(&all_hold);
    for (;;)
        pause();
    return (void)on_stack, unused;
}

/* Where the next thread with as large a stack will have its own. */
__attribute__((noinline, noclone)) static void leave_at_top(void *block) {
    void *volatile room[64];
    for (size_t i = 0; i < 64; i++)
        room[i] = block;
    KEEP(room);
}

SCENARIO scenario_on_ended_stack(void) {
    leave_at_top((void *)definite(SIZE));
}

SCENARIO scenario_in_ended_tls(void) {
    of_thread = (void *)definite(SIZE);
}

__attribute__((noinline, noclone)) static void *scenario_nobody_has_joined(void) {
    leave_at_top((void *)definite(SIZE));
    void *result = (void *)reachable(SIZE);
    KEEP(result);
    return result; /* pthread_join would return it */
}

static void *work_and_end(void *unused) {
    scenario_on_ended_stack();
    scenario_in_ended_tls();
    return unused;
}

static void *end_with_result(void *tid) {
    *(volatile pid_t *)tid = gettid();
    return scenario_nobody_has_joined();
}

/* A stack of the program's own. glibc has left it when the thread is joined. */
__attribute__((noinline, noclone)) static void *scenario_on_own_stack(void *memory) {
    *(void *volatile *)memory = (void *)reachable(SIZE);
    return NULL;
}

static void start(void *(*work)(void *), void *argument) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, argument) != 0)
        _exit(73);
}

static void tell(const char *name) {
    char line[120] = "truth ";
    char *end = line + 6;
    memcpy(end, name, strlen(name));
    end += strlen(name);
    for (size_t kind = 0; kind < KINDS; kind++) {
        *end++ = ' ';
        end = put_number(end, truth[kind]);
        truth[kind] = 0;
    }
    *end++ = '\n';
    *end = '\0';
    say(line);
}

#define TELL(scenario) (scenario(), tell(#scenario))

static void scenarios(void) {
    TELL(scenario_lost_list);
    TELL(scenario_kept_list);
    TELL(scenario_lost_tree);
    TELL(scenario_lost_cycle);
    TELL(scenario_lost_ring);
    TELL(scenario_kept_ring);
    TELL(scenario_points_to_itself);
    TELL(scenario_inside);
    TELL(scenario_behind);
    TELL(scenario_lost_head_of_kept);
    TELL(scenario_tagged);
    TELL(scenario_empty);
    TELL(scenario_freed_and_reused);
    TELL(scenario_in_mapped_memory);
    wipe();
    TELL(scenario_old_stack);
}

static void scenarios_of_threads(void) {
    pthread_barrier_init(&all_hold, NULL, 2);
    start(wait_with_register, NULL);
    pthread_barrier_wait(&all_hold);
    tell("scenario_in_register");
    start(wait_with_stack, NULL);
    pthread_barrier_wait(&all_hold);
    tell("scenario_of_thread");
    start(wait_above_old_stack, NULL);
    pthread_barrier_wait(&all_hold);
    tell("wait_above_old_stack");
}

static void await_end(pthread_t thread) {
    if (pthread_join(thread, NULL) != 0)
        _exit(74);
}

static pthread_t start_with(const pthread_attr_t *attributes, void *(*work)(void *),
                            void *argument) {
    pthread_t thread;
    if (pthread_create(&thread, attributes, work, argument) != 0)
        _exit(73);
    return thread;
}

static void scenarios_of_ended_threads(void) {
    static volatile pid_t zombie;
    pthread_attr_t own;
    pthread_t ended[3], living;
    Block memory = mmap(NULL, 64 << 10, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    for (size_t i = 0; i < 3; i++)
        ended[i] = start_with(NULL, work_and_end, NULL);
    for (size_t i = 0; i < 3; i++)
        await_end(ended[i]);
    /* Both were in each thread. */
    truth[DEFINITE] /= 2;
    unsigned each = truth[DEFINITE];
    tell("scenario_on_ended_stack");
    truth[DEFINITE] = each;
    tell("scenario_in_ended_tls");

    start_with(NULL, end_with_result, (void *)&zombie);
    while (zombie == 0 || tgkill(getpid(), zombie, 0) == 0)
        sched_yield();
    tell("scenario_nobody_has_joined");

    pthread_barrier_init(&all_hold, NULL, 2);
    living = start_with(NULL, wait_with_stack, NULL);
    pthread_barrier_wait(&all_hold);
    tell("scenario_of_thread");
    if (living != ended[0] && living != ended[1] && living != ended[2])
        _exit(75); /* it has a stack of its own */

    if (memory == MAP_FAILED || pthread_attr_init(&own) != 0 ||
        pthread_attr_setstack(&own, (void *)memory, 64 << 10) != 0)
        _exit(72);
    await_end(start_with(&own, scenario_on_own_stack, (void *)memory));
    tell("scenario_on_own_stack");
}

static void scenarios_of_vectors(void) {
    pthread_barrier_init(&all_hold, NULL, 2);
    start(wait_with_vector, NULL);
    pthread_barrier_wait(&all_hold);
    tell("scenario_in_vector");
}

SCENARIO scenario_one(void) {
    KEEP(definite(SIZE));
}

SCENARIO scenario_none(void) {
    kept_list = reachable(SIZE);
}

static uintptr_t mask(size_t index) {
    return 0x5555555555555555 ^ index;
}

SCENARIO scenario_hide(size_t count) {
    for (size_t i = 0; i < count; i++)
        hidden[i] = (uintptr_t)reachable(SIZE) ^ mask(i);
}

SCENARIO scenario_find(size_t count) {
    for (size_t i = 0; i < MOST_HIDDEN && count > 0; i++)
        if (hidden[i] != 0) {
            free((void *)(hidden[i] ^ mask(i)));
            hidden[i] = 0;
            count--;
        }
}

static void **slots;

static uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* At any time, most pointers are in one slot each, and no thread waits. */
static void *move(void *seed) {
    uint64_t state = 88172645463325252 + (uintptr_t)seed;
    for (;;) {
        for (size_t i = 0; i < WORK_BETWEEN_MOVES; i++)
            next_random(&state);
        size_t from = next_random(&state) % SLOTS, to = next_random(&state) % SLOTS;
        void *moved = __atomic_exchange_n(&slots[from], NULL, __ATOMIC_RELAXED), *none = NULL;
        if (moved == NULL)
            continue;
        while (!__atomic_compare_exchange_n(&slots[to], &none, moved, 0, __ATOMIC_RELAXED,
                                            __ATOMIC_RELAXED)) {
            none = NULL;
            to = (to + 977) % SLOTS;
        }
    }
    return NULL;
}

SCENARIO scenario_move(void) {
    slots = mmap(NULL, SLOTS * sizeof *slots, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                 -1, 0);
    if (slots == MAP_FAILED)
        _exit(72);
    memset(slots, 0, SLOTS * sizeof *slots);
    for (size_t i = 0; i < MOVED; i++)
        slots[i * (SLOTS / MOVED)] = (void *)reachable(SIZE);
    for (uintptr_t i = 0; i < THREADS; i++)
        start(move, (void *)(i * 7919));
}

/* Most of the time, a pointer is on the stack of a thread that has just begun on one that was free.
 */
static void *carry(void *slot) {
    void *volatile held = __atomic_exchange_n((void **)slot, NULL, __ATOMIC_RELAXED);
    wipe();
    usleep(5000);
    __atomic_store_n((void **)slot, held, __ATOMIC_RELAXED);
    held = NULL;
    return NULL;
}

static void *carry_for_ever(void *all) {
    pthread_t threads[CARRIED];
    for (;;) {
        for (size_t i = 0; i < CARRIED; i++)
            threads[i] = start_with(NULL, carry, (void **)all + i);
        for (size_t i = 0; i < CARRIED; i++)
            await_end(threads[i]);
    }
    return NULL;
}

SCENARIO scenario_carry(void) {
    static void *all[CARRIED];
    for (size_t i = 0; i < CARRIED; i++)
        all[i] = (void *)reachable(SIZE);
    start(carry_for_ever, all);
}

static void obey(char *line) {
    char *space = strchr(line, ' ');
    size_t count = space == NULL ? 0 : strtoul(space, NULL, 10);

    if (strcmp(line, "all") == 0)
        scenarios();
    else if (strcmp(line, "threads") == 0)
        scenarios_of_threads();
    else if (strcmp(line, "ended") == 0)
        scenarios_of_ended_threads();
    else if (strcmp(line, "vector") == 0)
        scenarios_of_vectors();
    else if (strcmp(line, "one") == 0)
        scenario_one();
    else if (strcmp(line, "none") == 0)
        scenario_none();
    else if (strncmp(line, "hide ", 5) == 0 && count <= MOST_HIDDEN)
        scenario_hide(count);
    else if (strncmp(line, "find ", 5) == 0)
        scenario_find(count);
    else if (strcmp(line, "carry") == 0)
        scenario_carry();
    else if (strcmp(line, "move") == 0)
        scenario_move();
    else
        _exit(64);
    if (strcmp(line, "all") != 0)
        wipe();
    say("done\n");
}

int main(int count, char **arguments) {
    char line[64];

    if (count > 1)
        obey(arguments[1]);
    say("ready\n");
    while (read_line(line, sizeof line))
        obey(line);
    return 0;
}
