/* Loses blocks to which only free memory still points, and prints how many, and their bytes.
 *
 * The pointers are in freed chunks, and in malloc's lists of free chunks: those lead to the last
 * word of the block before, if its size leaves no rest (24 bytes, 40, 56).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAIRS 40

struct node {
    struct node *next;
    void *data;
};

static void *pairs[2 * PAIRS];

__attribute__((noinline)) static void *lose(size_t size) {
    static size_t count, bytes;

    if (!size) {
        printf("%zu %zu\n", count, bytes);
        return NULL;
    }
    count++;
    bytes += size;
    return malloc(size);
}

__attribute__((noinline)) static void leave_in_freed(void) {
    struct node *holder = malloc(sizeof *holder);

    holder->next = lose(56);
    holder->data = lose(1000);
    free(holder);
}

/* Free chunks between lost blocks, so large that they are in malloc's lists. */
__attribute__((noinline)) static void leave_in_lists(void) {
    for (int i = 0; i < PAIRS; i++) {
        size_t size = 24 + 16 * (size_t)(i % 4);

        pairs[2 * i] = memset(lose(size), 0, size);
        pairs[2 * i + 1] = malloc(2000 + 64 * (size_t)i);
    }
    for (int i = 0; i < PAIRS; i++)
        free(pairs[2 * i + 1]);
    memset(pairs, 0, sizeof pairs);
}

/* The block before the top of the heap. */
__attribute__((noinline)) static void leave_last(void) {
    volatile char *last = lose(40);

    for (int i = 0; i < 40; i++)
        last[i] = 1;
}

__attribute__((noinline)) static void overwrite_stack(void) {
    volatile char room[4096];

    memset((char *)room, 0, sizeof room);
}

int main(void) {
    setvbuf(stdout, NULL, _IONBF, 0);
    leave_in_freed();
    leave_in_lists();
    leave_last();
    overwrite_stack();
    lose(0);
    return 0;
}
