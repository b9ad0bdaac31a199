/*
 * A server with a pool of buffers of its own. The pool is one large block, so malloc's figures
 * don't change, whatever leaks.
 *
 * Each round answers 10 requests with a buffer of 512 bytes each. Every fifth request fails, and
 * its buffer is not given back: 2 buffers, 1,024 bytes per round.
 *
 *   pool [ROUNDS]     ROUNDS rounds (100, the default), then wait until standard input ends
 *
 *   leaktrace --pair buffer_get:buffer_put:2:2 -c './pool 100'
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { REQUESTS_PER_ROUND = 10, FAILS_EVERY = 5, BUFFER_BYTES = 512, POOL_BYTES = 1 << 20 };

/* As another object calls it: a compiler that sees all callers may change the arguments. */
#define POOL __attribute__((noinline, noclone))

struct buffer {
    struct buffer *next;
    char data[BUFFER_BYTES - sizeof(struct buffer *)];
};

struct pool {
    struct buffer *spare;
    char *unused, *end;
};

POOL void *buffer_get(struct pool *pool, size_t size_bytes) {
    struct buffer *buffer = pool->spare;
    if (size_bytes > BUFFER_BYTES)
        return NULL;
    if (buffer != NULL) {
        pool->spare = buffer->next;
    } else if (pool->unused + BUFFER_BYTES <= pool->end) {
        buffer = (struct buffer *)pool->unused;
        pool->unused += BUFFER_BYTES;
    }
    return buffer;
}

POOL void buffer_put(struct pool *pool, void *data) {
    struct buffer *buffer = data;
    buffer->next = pool->spare;
    pool->spare = buffer;
}

static __attribute__((noinline)) int answer(int number, char *buffer) {
    snprintf(buffer, BUFFER_BYTES, "HTTP/1.1 200 OK: item %d", number);
    return number % FAILS_EVERY == 0 ? -1 : 0;
}

static __attribute__((noinline)) void handle_request(struct pool *pool, int number) {
    char *buffer = buffer_get(pool, BUFFER_BYTES);
    if (buffer == NULL)
        abort();
    if (answer(number, buffer) < 0)
        return; /* the buffer is forgotten */
    buffer_put(pool, buffer);
}

int main(int argc, char **argv) {
    long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : 100;
    struct pool pool = {.unused = malloc(POOL_BYTES)};
    int number = 0;

    if (pool.unused == NULL)
        abort();
    pool.end = pool.unused + POOL_BYTES;
    for (long round = 0; round < rounds; round++)
        for (int i = 0; i < REQUESTS_PER_ROUND; i++)
            handle_request(&pool, number++);
    char ignored[64]; /* stdio would allocate a buffer */
    while (read(STDIN_FILENO, ignored, sizeof(ignored)) > 0)
        continue;
    return 0;
}
