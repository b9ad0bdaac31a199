/* A program of C with Go libraries (go_library.go): go_host LIBRARY [LIBRARY]. By each, it keeps
 * blocks by four paths, on its own thread and on a new one that Go doesn't know. 10 goroutines of
 * the first one are left that never end, 20 of the second one. With two, a last block is kept by
 * calls from the first one to the second one and back to the first. */
#include "scenario.h"
#include <dlfcn.h>
#include <pthread.h>

typedef void (*callback)(int size);

struct library {
    void (*keep)(int size, int times);
    void (*call_back)(callback to, int size);
    void (*keep_elsewhere)(int size);
    void (*stick)(int count);
};

static struct library libraries[2];
static int library_count;

static void *function(void *library, const char *name) {
    void *found = dlsym(library, name);
    if (found == NULL)
        _exit(82);
    return found;
}

static void load(const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        say(dlerror());
        _exit(81);
    }
    libraries[library_count++] =
        (struct library){function(library, "GoKeep"), function(library, "GoCallBack"),
                         function(library, "GoKeepElsewhere"), function(library, "GoStick")};
}

SCENARIO host_keeps(int size) {
    char *block = malloc((size_t)size);
    KEEP(block);
}

/* From C to Go to C to Go to C. */
SCENARIO host_keeps_by_go(int size) {
    libraries[0].keep(size, 1);
    KEEP(NULL);
}

SCENARIO host_crosses(int size) {
    libraries[1].call_back(host_keeps_by_go, size);
    KEEP(NULL);
}

SCENARIO host_works(struct library *library, int size) {
    library->keep(size, 5);
    library->call_back(host_keeps, size + 1);
    library->call_back(host_keeps_by_go, size + 2);
    library->keep_elsewhere(size + 3);
    KEEP(library);
}

static void *on_thread(void *library) {
    host_works(library, 20001);
    return NULL;
}

int main(int argc, char **argv) {
    unsigned bytes = 0, blocks = 0;
    if (argc < 2 || argc > 3)
        _exit(64);
    for (int i = 1; i < argc; i++)
        load(argv[i]);
    await_go();
    for (int i = 0; i < library_count; i++) {
        pthread_t thread;
        host_works(&libraries[i], 10001);
        if (pthread_create(&thread, NULL, on_thread, &libraries[i]) != 0)
            _exit(71);
        pthread_join(thread, NULL);
        libraries[i].stick(10 * (i + 1));
        bytes += 8 * 10001 + 8 * 20001 + 2 * (1 + 2 + 3);
        blocks += 16;
    }
    if (library_count == 2) {
        libraries[0].call_back(host_crosses, 50001);
        bytes += 50001;
        blocks++;
    }
    done_with_account(bytes, blocks);
    return 0;
}
