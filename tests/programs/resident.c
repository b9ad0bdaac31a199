/* Executes one command per line, with a number of MiB, and answers "done": memory that becomes
 * resident without malloc, and memory of malloc and mmap that doesn't become resident, or stays
 * when it is freed.
 *
 *   own N     anonymous memory by the system call mmap(2), touched
 *   shared N  System V shared memory, touched
 *   file N    a mapped file of the directory that the argument names, by the system call, touched
 *   keep N    malloc in small blocks, touched
 *   free      frees all of those but the last, so that the C library can't give memory back
 *   idle N    malloc in one block, not touched
 */
#include "scenario.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>

enum { MIB = 1 << 20, SMALL = 2048, MOST = 512 * MIB / SMALL };

static char *kept[MOST];
static size_t kept_count;

static void fail_if(int failed) {
    if (failed)
        _exit(72);
}

static void own(size_t bytes, int flags, int file) {
    char *memory = (char *)syscall(SYS_mmap, NULL, bytes, PROT_READ | PROT_WRITE, flags, file, 0);
    fail_if(memory == MAP_FAILED);
    memset(memory, 1, bytes);
}

static void shared(size_t bytes) {
    int id = shmget(IPC_PRIVATE, bytes, 0600 | IPC_CREAT);
    fail_if(id < 0);
    char *memory = (char *)syscall(SYS_shmat, id, NULL, 0);
    shmctl(id, IPC_RMID, NULL);
    fail_if(memory == (char *)-1);
    memset(memory, 1, bytes);
}

static void mapped_file(const char *directory, size_t bytes) {
    char path[512];
    snprintf(path, sizeof path, "%s/mapped", directory);
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    fail_if(file < 0 || ftruncate(file, (off_t)bytes) != 0);
    own(bytes, MAP_SHARED, file);
}

static void keep(size_t bytes) {
    for (size_t i = 0; i < bytes / SMALL && kept_count < MOST; i++) {
        kept[kept_count] = malloc(SMALL);
        fail_if(kept[kept_count] == NULL);
        memset(kept[kept_count++], 1, SMALL);
    }
}

static void free_all_but_the_last(void) {
    while (kept_count > 1)
        free(kept[--kept_count - 1]);
}

int main(int argc, char **argv) {
    char line[64], word[16];
    unsigned mib;

    say("ready\n");
    while (read_line(line, sizeof line)) {
        size_t bytes = sscanf(line, "%15s %u", word, &mib) == 2 ? (size_t)mib * MIB : 0;
        if (strcmp(word, "own") == 0)
            own(bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);
        else if (strcmp(word, "shared") == 0)
            shared(bytes);
        else if (strcmp(word, "file") == 0)
            mapped_file(argc > 1 ? argv[1] : "/tmp", bytes);
        else if (strcmp(word, "keep") == 0)
            keep(bytes);
        else if (strcmp(word, "free") == 0)
            free_all_but_the_last();
        else if (strcmp(word, "idle") == 0)
            KEEP(malloc(bytes));
        say("done\n");
    }
    return 0;
}
