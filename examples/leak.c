/*
 * A server with a cache that never evicts. A tool that searches for unreachable blocks does not
 * find this leak, because every block is still reachable.
 *
 * Each round answers 10 requests. A request is parsed, answered and remembered:
 *   - parse_request and build_response allocate and free (300 and up to 9,000 bytes),
 *   - remember_request keeps one entry of exactly 4,096 bytes: 40,960 bytes per round.
 *
 *   leak [ROUNDS]     ROUNDS rounds, then wait until standard input ends (0, the default: forever)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { REQUESTS_PER_ROUND = 10, ENTRY_BYTES = 4096, REQUEST_BYTES = 300 };

struct entry {
    struct entry *next;
    char request[ENTRY_BYTES - sizeof(struct entry *)];
};

static struct entry *cache;

static __attribute__((noinline)) void remember_request(const char *request) {
    struct entry *entry = malloc(sizeof(*entry));
    if (entry == NULL)
        abort();
    snprintf(entry->request, sizeof(entry->request), "%s", request);
    entry->next = cache; /* nothing ever removes it */
    cache = entry;
}

static __attribute__((noinline)) char *parse_request(int number) {
    char *request = malloc(REQUEST_BYTES);
    if (request == NULL)
        abort();
    snprintf(request, REQUEST_BYTES, "GET /item/%d", number);
    return request;
}

static __attribute__((noinline)) char *build_response(int number) {
    size_t size_bytes = 1000 + (size_t)(number % 9) * 1000;
    char *response = malloc(size_bytes);
    if (response == NULL)
        abort();
    memset(response, 'x', size_bytes - 1);
    response[size_bytes - 1] = '\0';
    return response;
}

static __attribute__((noinline)) void handle_request(int number) {
    char *request = parse_request(number);
    char *response = build_response(number);
    remember_request(request);
    free(response);
    free(request);
}

int main(int argc, char **argv) {
    const struct timespec pause = {.tv_nsec = 50 * 1000 * 1000};
    long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
    int number = 0;

    for (long round = 0; rounds == 0 || round < rounds; round++) {
        for (int i = 0; i < REQUESTS_PER_ROUND; i++)
            handle_request(number++);
        nanosleep(&pause, NULL);
    }
    char ignored[64]; /* stdio would allocate a buffer */
    while (read(STDIN_FILENO, ignored, sizeof(ignored)) > 0)
        continue;
    return 0;
}
