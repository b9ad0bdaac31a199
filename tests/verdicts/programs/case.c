/* The clock, the account and main() of the cases: see case.h. */
#include "case.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <time.h>

enum { LIMIT_S = 600, WHEEL = 8192, RING = 16 };

static struct verdict_case *cases;

static long tick_us = 10000, warm_ticks;
static long tick_number = -1;
static int64_t next_ns;
static bool quiet;

static int account = -1;
static atomic_ulong leaked_count, leaked_bytes;
static unsigned long written_count;

static uint64_t state = 0x9e3779b97f4a7c15;

struct due {
    struct due *next;
};
static struct due *wheel[WHEEL];

void add_case(struct verdict_case *one) {
    one->next = cases;
    cases = one;
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void write_line(const char *line, int length) {
    if (account >= 0 && write(account, line, (size_t)length) != length)
        _exit(72);
}

void mark(const char *name) {
    char line[100];
    write_line(line, snprintf(line, sizeof line, "%lld mark %s\n", (long long)now_ns(), name));
}

void settles_at(long at) {
    if (tick_number == at)
        mark("settled");
}

void leaked(size_t bytes) {
    atomic_fetch_add(&leaked_bytes, bytes);
    atomic_fetch_add(&leaked_count, 1);
}

static void write_account(void) {
    unsigned long count = atomic_load(&leaked_count);
    if (count == written_count)
        return;
    char line[100];
    written_count = count;
    write_line(line, snprintf(line, sizeof line, "%lld leaked %lu %lu\n", (long long)now_ns(),
                              count, (unsigned long)atomic_load(&leaked_bytes)));
}

/* xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators". */
uint64_t chance_bits(void) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545f4914f6cdd1d;
}

static double unit(void) {
    return (double)(chance_bits() >> 11) / 9007199254740992.0;
}

bool chance(double probability) {
    return unit() < probability;
}

long below(long bound) {
    return (long)(unit() * (double)bound);
}

long exponential(double mean) {
    return (long)(-mean * log(1.0 - unit()));
}

void free_after(void *block, long wait_ticks) {
    struct due *due = block;
    struct due **slot = &wheel[(tick_number + 1 + wait_ticks) % WHEEL];
    due->next = *slot;
    *slot = due;
}

static NAMED void release_due(void) {
    struct due **slot = &wheel[tick_number % WHEEL];
    while (*slot != NULL) {
        struct due *due = *slot;
        *slot = due->next;
        free(due);
    }
}

ALLOCATES(background_request)
ALLOCATES(background_reply)

/* A request and a reply; the last few replies are kept for a while. */
static NAMED void serve_in_background(void) {
    static void *replies[RING];
    void *request = background_request(64 + (size_t)below(64));
    void **reply = &replies[below(RING)];
    free(*reply);
    *reply = background_reply(256);
    free(request);
}

static void await_go(void) {
    char byte = 0;
    if (write(1, "ready\n", 6) != 6)
        _exit(72);
    while (read(0, &byte, 1) == 1 && byte != '\n') {
    }
}

/* Whether the other end of standard input is closed: the run is over. */
static bool is_over(void) {
    struct pollfd input = {0, 0, 0};
    return getenv("VERDICT_WAIT") != NULL && poll(&input, 1, 0) > 0 &&
           (input.revents & (POLLHUP | POLLERR)) != 0;
}

static void sleep_until(int64_t time_ns) {
    struct timespec until = {time_ns / 1000000000, time_ns % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {
    }
}

bool tick(void) {
    tick_number++;
    if (tick_number == warm_ticks) {
        if (getenv("VERDICT_WAIT") != NULL)
            await_go();
        atomic_store(&leaked_count, 0);
        atomic_store(&leaked_bytes, 0);
        mark("begin");
        next_ns = now_ns();
    } else if (tick_number > warm_ticks) {
        write_account();
        if (is_over())
            return false;
        next_ns += tick_us * 1000;
        sleep_until(next_ns);
        /* After a long stop, ticks that were missed are not made up for. */
        if (now_ns() - next_ns > 100 * tick_us * 1000)
            next_ns = now_ns();
    }
    release_due();
    if (!quiet)
        serve_in_background();
    return true;
}

long ticks(void) {
    return tick_number;
}

void be_quiet(void) {
    quiet = true;
}

void end_with_parent(void) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static void open_account(void) {
    const char *path = getenv("VERDICT_ACCOUNT");
    if (path == NULL)
        return;
    account = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (account < 0) {
        perror(path);
        _exit(72);
    }
}

int main(int count, char **words) {
    const char *name = count > 1 ? words[1] : "";
    tick_us = count > 2 ? atol(words[2]) : tick_us;
    state ^= count > 3 ? strtoull(words[3], NULL, 10) * 0xd1342543de82ef95 : 0;
    warm_ticks = count > 4 ? atol(words[4]) : 0;
    open_account();
    alarm(LIMIT_S); /* should nobody end it */
    for (int i = 0; i < 16; i++)
        (void)chance_bits();
    for (struct verdict_case *one = cases; one != NULL; one = one->next) {
        if (strcmp(one->name, name) == 0) {
            one->run();
            return 0;
        }
        if (*name == '\0')
            puts(one->name);
    }
    if (*name != '\0')
        fprintf(stderr, "no such case: %s\n", name);
    return *name != '\0' ? 64 : 0;
}
