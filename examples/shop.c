/*
 * A shop that holds memory in the usual ways, and leaks in two. A round has 10 visitors:
 *   - read_catalogue has allocated 1,000 products of 1,000 bytes at the start, and keeps them;
 *   - render_page keeps the newest 200 pages of 8,000 bytes in a cache, and frees the oldest;
 *   - open_session keeps a session of 240 bytes for each visitor, with a basket of 480 bytes, in a
 *     list that nothing shortens;
 *   - print_receipt allocates 1,600 bytes for each visitor. Every second one buys nothing, and
 *     check_out forgets the receipt;
 *   - parse_request allocates 300 bytes for each visitor, and serve_visitor frees them.
 *
 *   shop [ROUNDS]     ROUNDS rounds, then end (0, the default: never end)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define APART __attribute__((noinline)) /* a function of its own, also in the stacks */

enum { PRODUCTS = 1000, PAGES = 200, VISITORS_PER_ROUND = 10 };

struct product {
    char description[1000];
};

struct session {
    struct session *next;
    char *basket;
    char state[240 - 2 * sizeof(void *)];
};

static struct product *catalogue[PRODUCTS];
static char *pages[PAGES];
static struct session *sessions;

/* Memory that is written to, as real programs do. */
APART static void *filled(void *block, size_t size_bytes) {
    if (block == NULL)
        abort();
    return memset(block, '.', size_bytes);
}

APART static struct product *add_product(void) {
    return filled(malloc(sizeof(struct product)), sizeof(struct product));
}

APART static void read_catalogue(void) {
    for (int i = 0; i < PRODUCTS; i++)
        catalogue[i] = add_product();
}

APART static char *parse_request(int visitor) {
    char *request = filled(malloc(300), 300);
    snprintf(request, 300, "GET /product/%d", visitor % PRODUCTS);
    return request;
}

APART static char *render_page(void) {
    return filled(malloc(8000), 8000);
}

APART static void show_page(int visitor) {
    char **place = &pages[visitor % PAGES];
    free(*place);
    *place = render_page();
}

APART static char *fill_basket(void) {
    return filled(malloc(480), 480);
}

APART static void open_session(void) {
    struct session *session = filled(malloc(sizeof(*session)), sizeof(*session));
    session->basket = fill_basket();
    session->next = sessions; /* nothing ever removes it */
    sessions = session;
}

APART static char *print_receipt(void) {
    return filled(malloc(1600), 1600);
}

APART static void check_out(int visitor) {
    char *receipt = print_receipt();
    if (visitor % 2 == 0)
        return; /* the receipt should be freed here, too */
    free(receipt);
}

APART static void serve_visitor(int visitor) {
    char *request = parse_request(visitor);
    open_session();
    show_page(visitor);
    check_out(visitor);
    free(request);
}

int main(int argc, char **argv) {
    const struct timespec pause = {.tv_nsec = 100 * 1000 * 1000};
    long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
    int visitor = 0;

    read_catalogue();
    for (long round = 0; rounds == 0 || round < rounds; round++) {
        for (int i = 0; i < VISITORS_PER_ROUND; i++)
            serve_visitor(visitor++);
        nanosleep(&pause, NULL);
    }
    return 0;
}
