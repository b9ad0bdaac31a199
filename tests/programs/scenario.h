/* The protocol of every target, so that no test sleeps or guesses.
 *
 *   target: "ready"   it has started its threads and allocated what it needs beforehand
 *   test:   a line    the probes are attached: do the work
 *   target: "done …"  the work is done; the rest of the line is its own account
 *   test:   a line or end of file: go on, or exit
 *
 * Only read(2) and write(2) are used: stdio allocates buffers, which would distort the figures.
 */
#ifndef SCENARIO_H
#define SCENARIO_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A function whose name must be found in the reported stacks: it has a frame and no clones. */
#define SCENARIO __attribute__((noinline, noclone)) void

/* Lets a pointer escape: otherwise the compiler removes an unused allocation, or turns
 * a call in tail position into a jump. */
#define KEEP(pointer) __asm__ volatile("" ::"r"(pointer) : "memory")

/* A number the compiler can't see through: it neither rejects an impossible size, nor unrolls a
 * loop, which would make several call sites of one. */
static inline size_t opaque(size_t size) {
    __asm__ volatile("" : "+r"(size));
    return size;
}

static inline void say(const char *text) {
    size_t left = strlen(text);
    while (left > 0) {
        ssize_t written = write(1, text, left);
        if (written <= 0)
            _exit(70);
        text += written;
        left -= (size_t)written;
    }
}

/* Reads one line into `line` (without the newline); returns 0 at the end of the input. */
static inline int read_line(char *line, size_t capacity) {
    size_t length = 0;
    char character;
    while (read(0, &character, 1) == 1) {
        if (character == '\n') {
            line[length] = '\0';
            return 1;
        }
        if (length + 1 < capacity)
            line[length++] = character;
    }
    line[length] = '\0';
    return 0;
}

static inline void await_line(void) {
    char line[64];
    (void)read_line(line, sizeof line);
}

static inline void await_go(void) {
    say("ready\n");
    await_line();
}

static inline void done(void) {
    say("done\n");
    await_line();
}

/* Appends a number in decimal; returns the new end. */
static inline char *put_number(char *end, unsigned long long number) {
    char digits[24];
    size_t count = 0;
    do {
        digits[count++] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    while (count > 0)
        *end++ = digits[--count];
    *end = '\0';
    return end;
}

/* "done BYTES COUNT": the target's own figures of what is outstanding. */
static inline void done_with_account(unsigned long long bytes, unsigned long long count) {
    char line[80] = "done ";
    char *end = put_number(line + 5, bytes);
    *end++ = ' ';
    end = put_number(end, count);
    *end++ = '\n';
    *end = '\0';
    say(line);
    await_line();
}

/* "WHAT NUMBER": a line with an observation of the target. */
static inline void print_result(const char *what, unsigned long long number) {
    char line[80];
    size_t length = strlen(what);
    if (length > 40)
        _exit(74);
    memcpy(line, what, length);
    line[length] = ' ';
    char *end = put_number(line + length + 1, number);
    *end++ = '\n';
    *end = '\0';
    say(line);
}

/* "account BYTES COUNT": what is outstanding from below scenario() when the target ends. */
static inline void account(unsigned long long bytes, unsigned long long count) {
    char line[80] = "account ";
    char *end = put_number(line + 8, bytes);
    *end++ = ' ';
    end = put_number(end, count);
    *end++ = '\n';
    *end = '\0';
    say(line);
}

#endif
