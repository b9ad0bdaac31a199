/*
 * A gateway that parses requests, linked statically: no C library is mapped, malloc is part of the
 * program itself.
 *
 * Each request is parsed into a struct, which has a copy of the path. If the header has no colon,
 * the request is refused and the struct freed, but not the path's 512 bytes.
 *
 *   gateway [REQUESTS]     as many requests (1,000), each tenth of them bad
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 512, BAD_EVERY = 10 };

struct request {
    char *path;
    const char *host;
};

/* Returns NULL for a bad request. */
static __attribute__((noinline)) struct request *parse_request(const char *line,
                                                               const char *header) {
    struct request *request = malloc(sizeof(*request));
    const char *colon = strchr(header, ':');
    if (request == NULL)
        abort();
    request->path = malloc(PATH_BYTES);
    if (request->path == NULL || sscanf(line, "%*s %511s", request->path) != 1)
        abort();
    if (colon == NULL) {
        free(request);
        return NULL; /* request->path is forgotten */
    }
    request->host = colon + 1;
    return request;
}

static __attribute__((noinline)) int handle_request(const char *line, const char *header) {
    struct request *request = parse_request(line, header);
    if (request == NULL)
        return -1;
    free(request->path);
    free(request);
    return 0;
}

int main(int argc, char **argv) {
    int requests = argc > 1 ? atoi(argv[1]) : 1000, refused = 0;
    char line[64];

    for (int number = 0; number < requests; number++) {
        snprintf(line, sizeof(line), "GET /item/%d", number);
        if (handle_request(line,
                           number % BAD_EVERY == 0 ? "Host example.org" : "Host: example.org"))
            refused++;
    }
    printf("%d requests, %d refused\n", requests, refused);
    return 0;
}
