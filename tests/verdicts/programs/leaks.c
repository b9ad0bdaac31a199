/* Leaks of one kind of block, which differ in when they happen. */
#include "case.h"

ALLOCATES(leak_here)
ALLOCATES(keep_here)
ALLOCATES(work_here)

/* Two blocks a tick. */
CASE(leak_fast) {
    while (tick())
        for (int i = 0; i < 2; i++) {
            leak_here(100);
            leaked(100);
        }
}

/* One block in three quarters of a second, at 10 ms per tick. */
CASE(leak_slow) {
    while (tick())
        if (ticks() % 75 == 10) {
            leak_here(300);
            leaked(300);
        }
}

/* One block in two seconds: few are leaked in the whole run. */
CASE(leak_very_slow) {
    while (tick())
        if (ticks() % 200 == 20) {
            leak_here(4000);
            leaked(4000);
        }
}

/* Twenty at once, then nothing for a while. */
CASE(leak_bursts) {
    while (tick())
        if (ticks() % 120 == 30)
            for (int i = 0; i < 20; i++) {
                leak_here(128);
                leaked(128);
            }
}

/* Only from the 250th tick on. */
CASE(leak_after_warmup) {
    while (tick()) {
        if (ticks() < 100)
            keep_here(500);
        if (ticks() >= 250) {
            leak_here(96);
            leaked(96);
        }
    }
}

/* Each request allocates; one in fifty has an error, and its block is lost. */
CASE(leak_per_error) {
    while (tick())
        for (int request = 0; request < 5; request++) {
            free(work_here(200));
            if (chance(0.02)) {
                leak_here(150);
                leaked(150);
            }
        }
}

/* Each block is larger than the one before. */
CASE(leak_growing_size) {
    size_t size = 64;
    while (tick())
        if (ticks() % 3 == 0) {
            leak_here(size);
            leaked(size);
            size += 8;
        }
}

/* The rate follows a load that rises and falls. */
CASE(leak_varying_load) {
    while (tick()) {
        long phase = ticks() % 200;
        long load = (phase < 100 ? phase : 200 - phase) / 20;
        for (long request = 0; request < load; request++) {
            free(work_here(300));
            leak_here(48);
            leaked(48);
        }
    }
}

/* Ever faster. */
CASE(leak_accelerating) {
    while (tick())
        if (chance((double)ticks() / 600)) {
            leak_here(200);
            leaked(200);
        }
}

/* It leaks for 250 ticks, then never again. */
CASE(leak_stops) {
    while (tick()) {
        if (ticks() < 250)
            for (int i = 0; i < 2; i++) {
                leak_here(100);
                leaked(100);
            }
        if (ticks() == 250)
            mark("stopped");
        settles_at(500);
    }
}

/* Twenty thousand blocks are kept from the start. Next to them, the leak is small. */
CASE(leak_after_large_startup) {
    while (tick()) {
        if (ticks() == 0)
            for (int i = 0; i < 20000; i++)
                keep_here(200);
        leak_here(50);
        leaked(50);
    }
}

/* A megabyte from time to time. */
CASE(leak_large_and_rare) {
    while (tick())
        if (ticks() % 60 == 30) {
            leak_here(1 << 20);
            leaked(1 << 20);
        }
}

/* One in a hundred blocks of a busy site stays, the others live for a moment. */
CASE(leak_one_percent) {
    while (tick())
        for (int request = 0; request < 10; request++) {
            void *block = leak_here(120);
            if (chance(0.01))
                leaked(120);
            else
                free_after(block, below(4));
        }
}

/* One in a thousand. */
CASE(leak_one_permille) {
    while (tick())
        for (int request = 0; request < 50; request++) {
            void *block = leak_here(120);
            if (chance(0.001))
                leaked(120);
            else
                free_after(block, below(3));
        }
}

/* One in twenty of blocks that live for long: a quarter of a second to two. */
CASE(leak_among_long_lived) {
    while (tick())
        for (int request = 0; request < 2; request++) {
            void *block = leak_here(400);
            if (chance(0.05))
                leaked(400);
            else
                free_after(block, 25 + exponential(60));
        }
}

ALLOCATES(leak_there)

/* Two leaks at once, of different rates. */
CASE(leak_two) {
    while (tick()) {
        leak_here(64);
        leaked(64);
        if (ticks() % 10 == 0) {
            leak_there(2000);
            leaked(2000);
        }
    }
}

#define BUSY(number)                                                                               \
    ALLOCATES(busy_##number)                                                                       \
    static NAMED void request_##number(void) {                                                     \
        free(busy_##number(100 + number));                                                         \
        free_after(busy_##number(200 + number), exponential(5 + 3 * number));                      \
    }
BUSY(0)
BUSY(1)
BUSY(2)
BUSY(3)
BUSY(4)
BUSY(5)
BUSY(6)
BUSY(7)

static void (*const requests[])(void) = {request_0, request_1, request_2, request_3,
                                         request_4, request_5, request_6, request_7};

/* One block in two ticks, while many sites allocate and free much more. */
CASE(leak_under_churn) {
    while (tick()) {
        for (int request = 0; request < 12; request++)
            requests[below(8)]();
        if (ticks() % 2 == 0) {
            leak_here(80);
            leaked(80);
        }
    }
}

/* Much is allocated and freed at many sites, at a steady rate. */
CASE(steady_churn) {
    while (tick())
        for (int request = 0; request < 15; request++)
            requests[below(8)]();
}
