/* Leaks as they come about in programs. */
#include "case.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>

ALLOCATES(leak_here)
ALLOCATES(keep_here)

static NAMED void serve_peer(int socket_) {
    char request[32];
    char *session = leak_here(160); /* the bug: nobody frees it */
    char *buffer = keep_here(1024);
    if (read(socket_, request, sizeof request) > 0)
        (void)!write(socket_, request, 5);
    free(buffer);
    leaked(160);
    session[0] = 2;
}

static void *connection(void *argument) {
    int socket_ = *(int *)argument;
    serve_peer(socket_);
    close(socket_);
    return NULL;
}

/* A thread per connection, and a block per connection that is lost. */
CASE(leak_per_connection) {
    while (tick()) {
        if (ticks() % 4 != 0)
            continue;
        int ends[2];
        char reply[8];
        pthread_t thread;
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0 ||
            pthread_create(&thread, NULL, connection, &ends[1]) != 0)
            _exit(73);
        (void)!write(ends[0], "hello", 5);
        (void)!read(ends[0], reply, sizeof reply);
        pthread_join(thread, NULL);
        close(ends[0]);
    }
}

static pthread_key_t scratch_key;

static void *with_scratch(void *unused) {
    pthread_setspecific(scratch_key, leak_here(512)); /* the bug: the key has no destructor */
    leaked(512);
    return unused;
}

/* Each thread has a buffer of its own, which outlives it. */
CASE(leak_per_thread) {
    pthread_key_create(&scratch_key, NULL);
    while (tick()) {
        pthread_t thread;
        if (ticks() % 4 != 0)
            continue;
        if (pthread_create(&thread, NULL, with_scratch, NULL) != 0)
            _exit(73);
        pthread_join(thread, NULL);
    }
}

static void *return_at_once(void *argument) {
    return argument;
}

static NAMED void start_and_forget(void) {
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 65536);
    if (pthread_create(&thread, &attributes, return_at_once, NULL) != 0)
        _exit(73);
    pthread_attr_destroy(&attributes);
    leaked(65536);
}

/* Threads that are never joined: their stacks stay. */
CASE(leak_threads_not_joined) {
    while (tick())
        if (ticks() % 10 == 0)
            start_and_forget();
}

static NAMED char *grow_here(char *buffer, size_t size) {
    buffer = realloc(buffer, size);
    if (buffer == NULL)
        _exit(71);
    buffer[size - 1] = 1;
    return buffer;
}

/* A log in memory: one buffer that only grows. */
CASE(leak_buffer_grows) {
    char *log = NULL;
    size_t size = 0;
    while (tick())
        if (ticks() % 20 == 0) {
            size += 1500;
            log = grow_here(log, size);
            leaked(1500);
        }
}

/* A line is read into a buffer that grows with it. Each third line is lost. */
CASE(leak_after_realloc) {
    while (tick()) {
        char *line = grow_here(NULL, 32);
        for (size_t size = 64; size <= 256; size *= 2)
            line = grow_here(line, size);
        if (ticks() % 3 == 0)
            leaked(256);
        else
            free(line);
    }
}

static NAMED void map_here(size_t size) {
    char *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        _exit(71);
    pages[0] = 1;
    leaked(size);
}

/* Pages that the program maps itself. */
CASE(leak_mappings) {
    while (tick())
        if (ticks() % 5 == 0)
            map_here(16384);
}

/* A library that is opened when the trace has long begun. */
CASE(leak_in_late_library) {
    char path[4096 + 32];
    ssize_t length = readlink("/proc/self/exe", path, 4096);
    if (length < 0)
        _exit(74);
    path[length] = '\0';
    strcpy(strrchr(path, '/'), "/late_library.so");
    size_t (*handle_event)(void) = NULL;
    while (tick()) {
        if (ticks() == 150) {
            void *library = dlopen(path, RTLD_NOW);
            if (library == NULL)
                _exit(74);
            *(void **)&handle_event = dlsym(library, "handle_event");
        }
        if (handle_event != NULL)
            leaked(handle_event());
    }
}

/* In a child of the traced process. */
CASE(leak_in_child) {
    if (!tick())
        return;
    pid_t child = fork();
    if (child == 0)
        end_with_parent();
    while (tick())
        if (child == 0) {
            leak_here(100);
            leaked(100);
        }
}

/* Like strdup: many use it, and one of them forgets to free. */
static NAMED char *copy_text(const char *text) {
    size_t size = strlen(text) + 1;
    char *copy = malloc(size);
    if (copy == NULL)
        _exit(71);
    memcpy(copy, text, size);
    return copy;
}

static NAMED void forgetful_caller(void) {
    const char *name = "a name that is copied for each request and never freed";
    char *copy = copy_text(name);
    copy[0] = 'A';
    leaked(strlen(name) + 1);
}

static NAMED void careful_caller(void) {
    char *copy = copy_text("a name that is copied for each request, and freed with it");
    free_after(copy, below(10));
}

/* Five callers of a function like strdup free its copies, and one forgets to. */
CASE(leak_by_one_caller) {
    while (tick()) {
        for (int request = 0; request < 5; request++)
            careful_caller();
        if (ticks() % 2 == 0)
            forgetful_caller();
    }
}

struct entry {
    struct entry *next;
    char text[];
};

static struct entry *history;

static NAMED void remember_here(size_t size) {
    struct entry *entry = malloc(sizeof *entry + size);
    if (entry == NULL)
        _exit(71);
    memset(entry->text, 1, size);
    entry->next = history;
    history = entry;
    leaked(sizeof *entry + size);
}

/* Everything is still referenced, from a list that only grows. */
CASE(leak_list) {
    while (tick())
        remember_here(20 + (size_t)below(200));
}

struct node {
    struct node *partner;
    int references;
    char data[48];
};

static NAMED struct node *node_here(void) {
    struct node *node = malloc(sizeof *node);
    if (node == NULL)
        _exit(71);
    *node = (struct node){.references = 1};
    return node;
}

static void release(struct node *node) {
    if (--node->references == 0)
        free(node);
}

/* Nodes with counted references; some pairs refer to each other, and are never released. */
CASE(leak_reference_cycles) {
    while (tick()) {
        struct node *pair[2];
        for (int i = 0; i < 2; i++)
            pair[i] = node_here();
        if (chance(0.2))
            for (int i = 0; i < 2; i++) {
                pair[i]->partner = pair[1 - i];
                pair[1 - i]->references++;
                leaked(sizeof *pair[i]);
            }
        for (int i = 0; i < 2; i++)
            release(pair[i]);
    }
}

/* Sessions end when their user logs out. One in ten users does not, and there is no timeout. */
CASE(leak_sessions_without_timeout) {
    while (tick()) {
        void *session = leak_here(700);
        if (chance(0.1))
            leaked(700);
        else
            free_after(session, 20 + exponential(40));
    }
}

static NAMED void *aligned_here(size_t size) {
    void *block = NULL;
    if (posix_memalign(&block, 64, size) != 0)
        _exit(71);
    memset(block, 1, size);
    return block;
}

/* Blocks of posix_memalign. */
CASE(leak_aligned) {
    while (tick())
        if (ticks() % 3 == 0) {
            aligned_here(640);
            leaked(640);
        }
}

static NAMED int open_here(void) {
    int descriptor = open("/dev/null", O_RDONLY);
    if (descriptor < 0)
        _exit(75);
    return descriptor;
}

static void allow_many_descriptors(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max < 100000 ? limit.rlim_max : 100000;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* A file in eight is never closed. */
CASE(leak_descriptors) {
    allow_many_descriptors();
    while (tick()) {
        int descriptor = open_here();
        if (ticks() % 8 == 0)
            leaked(1);
        else
            close(descriptor);
    }
}

/* Files that stay open for some time, at most a hundred. */
CASE(steady_descriptors) {
    enum { MOST = 100 };
    int open_files[MOST];
    memset(open_files, -1, sizeof open_files);
    while (tick()) {
        int *slot = &open_files[below(MOST)];
        if (*slot >= 0)
            close(*slot);
        *slot = open_here();
        settles_at(300);
    }
}
