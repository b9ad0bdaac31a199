/*
 * Many outstanding allocations from many different stacks, to measure the cost of a report.
 *
 *   bench_outstanding BLOCKS PATH_BITS
 *
 * Takes 2^PATH_BITS different call paths in turn until BLOCKS blocks of 48 bytes are live. Prints
 * "ready", waits for a line, allocates, prints "done", waits for the end of its input.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void keep(void *block) {
    asm volatile("" ::"r"(block) : "memory");
}

static void descend(unsigned path, int bits);

static __attribute__((noinline)) void left(unsigned path, int bits) {
    descend(path, bits);
    asm volatile(""); /* otherwise the call would be a jump, without a frame */
}

static __attribute__((noinline)) void right(unsigned path, int bits) {
    descend(path, bits);
    asm volatile("");
}

static __attribute__((noinline)) void descend(unsigned path, int bits) {
    if (bits == 0)
        keep(malloc(48));
    else if (path & 1)
        left(path >> 1, bits - 1);
    else
        right(path >> 1, bits - 1);
    asm volatile("");
}

static void say(const char *text) {
    if (write(1, text, strlen(text)) < 0)
        _exit(1);
}

int main(int argc, char **argv) {
    char byte;
    if (argc != 3)
        return 2;
    long blocks = atol(argv[1]);
    int bits = atoi(argv[2]);

    say("ready\n");
    while (read(0, &byte, 1) == 1 && byte != '\n')
        ;
    for (long i = 0; i < blocks; i++)
        descend((unsigned)i & ((1u << bits) - 1), bits);
    say("done\n");
    while (read(0, &byte, 1) > 0)
        ;
    return 0;
}
