/* LD_PRELOAD: a leak for programs that have none. Every INJECTED_EACH-th call of read, recv or
 * recvfrom loses a block of 200 bytes. INJECTED_ACCOUNT names a file of 8 bytes that holds how many
 * were lost.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* Other libraries may call before the constructor has run. */
#define FIND(name)                                                                                 \
    if (real_##name == NULL)                                                                       \
        *(void **)&real_##name = dlsym(RTLD_NEXT, #name);

static ssize_t (*real_read)(int, void *, size_t);
static ssize_t (*real_recv)(int, void *, size_t, int);
static ssize_t (*real_recvfrom)(int, void *, size_t, int, struct sockaddr *, socklen_t *);

static unsigned long each;
static atomic_ulong calls;
static atomic_ulong *lost;

__attribute__((constructor)) static void prepare(void) {
    const char *words = getenv("INJECTED_EACH"), *path = getenv("INJECTED_ACCOUNT");
    int file = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (words == NULL || file < 0)
        return;
    void *shared = mmap(NULL, sizeof *lost, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (shared == MAP_FAILED)
        return;
    lost = shared;
    each = strtoul(words, NULL, 10);
}

__attribute__((noinline, noclone)) void injected_leak(void);

void injected_leak(void) {
    char *block = malloc(200);
    if (block == NULL)
        return;
    memset(block, 1, 200);
    atomic_fetch_add(lost, 1);
}

static void count_call(void) {
    if (each != 0 && (atomic_fetch_add(&calls, 1) + 1) % each == 0)
        injected_leak();
}

ssize_t read(int file, void *buffer, size_t size) {
    FIND(read)
    count_call();
    return real_read(file, buffer, size);
}

ssize_t recv(int socket_, void *buffer, size_t size, int flags) {
    FIND(recv)
    count_call();
    return real_recv(socket_, buffer, size, flags);
}

ssize_t recvfrom(int socket_, void *buffer, size_t size, int flags, struct sockaddr *from,
                 socklen_t *from_size) {
    FIND(recvfrom)
    count_call();
    return real_recvfrom(socket_, buffer, size, flags, from, from_size);
}
