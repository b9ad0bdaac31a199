/* Executes one command per line, and answers with its own account, in bytes.
 *
 *   map          maps 32 MiB and touches 10 MiB of it        done START END TOUCHED
 *   more         touches 6 MiB more of it                    done START END TOUCHED
 *   stacks       starts 4 threads with stacks of 2 MiB, which touch 1 MiB of them and wait
 *                                                            done PLACE… (in each stack)
 *   spin         starts a thread that runs all the time      done PLACE (in its stack)
 *   arenas       3 threads allocate 2 MiB each in small blocks, in an arena of their own, and wait
 *                                                            done PLACE… (in each arena)
 *   memfd        maps a memfd of 8 MiB and touches 3 MiB     done START END TOUCHED
 *   segment      the same with shared memory of System V     done START END TOUCHED
 *   shared       the same with shared anonymous memory       done START END TOUCHED
 *   file         the same with the file that the argument names
 *   named        the same with memory that has the name "jemalloc_pg"; 0 0 0 if the kernel has none
 *   huge         4 MiB in huge pages, by MADV_HUGEPAGE       done START END TOUCHED
 *   free         4 MiB touched, and given back by MADV_FREE  done START END TOUCHED
 *
 * What is touched is counted by mincore(2), not by the loop that touches it.
 */
#include "scenario.h"
#include <fcntl.h>
#include <pthread.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>

enum { MIB = 1 << 20, PAGE = 4096, STACK = 2 * MIB, STACKS = 4, ARENAS = 3 };

static pthread_barrier_t started;
static char *places[STACKS];
static char *mapped;

static void fail_if(int failed) {
    if (failed)
        _exit(72);
}

static void touch(char *memory, size_t bytes) {
    for (size_t at = 0; at < bytes; at += PAGE)
        ((volatile char *)memory)[at] = 1;
}

/* Private anonymous memory only: of a file, mincore counts the page cache. */
static size_t resident(char *memory, size_t bytes) {
    static unsigned char pages[64 * MIB / PAGE];
    size_t count = 0;
    fail_if(mincore(memory, bytes, pages) != 0);
    for (size_t i = 0; i < bytes / PAGE; i++)
        count += pages[i] & 1;
    return count * PAGE;
}

static void answer(const unsigned long long *numbers, size_t count) {
    char line[160] = "done";
    char *end = line + 4;
    for (size_t i = 0; i < count; i++) {
        *end++ = ' ';
        end = put_number(end, numbers[i]);
    }
    *end++ = '\n';
    *end = '\0';
    say(line);
}

static void answer_range(char *memory, size_t bytes, size_t touched) {
    unsigned long long start = (uintptr_t)memory;
    answer((unsigned long long[]){start, start + bytes, touched}, 3);
}

static void answer_places(size_t count) {
    unsigned long long numbers[STACKS];
    for (size_t i = 0; i < count; i++)
        numbers[i] = (uintptr_t)places[i];
    answer(numbers, count);
}

static char *new_memory(size_t bytes, int flags, int file) {
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, file, 0);
    fail_if(memory == MAP_FAILED);
    return memory;
}

/* With a page without access at each end, so that the kernel doesn't join it with a neighbour. */
static char *new_anonymous(size_t bytes) {
    char *memory = mmap(NULL, bytes + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fail_if(memory == MAP_FAILED);
    fail_if(mprotect(memory + PAGE, bytes, PROT_READ | PROT_WRITE) != 0);
    return memory + PAGE;
}

static void *with_stack(void *number) {
    char block[MIB];
    touch(block, sizeof block);
    places[(uintptr_t)number] = block;
    pthread_barrier_wait(&started);
    pause();
    KEEP(block);
    return NULL;
}

static void *spinning(void *number) {
    char local = 0;
    places[(uintptr_t)number] = &local;
    pthread_barrier_wait(&started);
    while (opaque(1))
        KEEP(&local);
    return NULL;
}

static void *with_arena(void *number) {
    char *block = NULL;
    for (size_t bytes = 0; bytes < 2 * MIB; bytes += 1024) {
        block = malloc(1024);
        fail_if(block == NULL);
        memset(block, 1, 1024);
    }
    places[(uintptr_t)number] = block;
    pthread_barrier_wait(&started);
    pause();
    return NULL;
}

static void start_threads(void *(*function)(void *), size_t count) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    pthread_barrier_init(&started, NULL, (unsigned)count + 1);
    for (size_t i = 0; i < count; i++) {
        pthread_t thread;
        fail_if(pthread_create(&thread, &attributes, function, (void *)i) != 0);
    }
    pthread_barrier_wait(&started);
    answer_places(count);
}

static void on_shared(char *memory) {
    touch(memory, 3 * MIB);
    answer_range(memory, 8 * MIB, 3 * MIB);
}

static void on_file(int file) {
    fail_if(file < 0 || ftruncate(file, 8 * MIB) != 0);
    on_shared(new_memory(8 * MIB, MAP_SHARED, file));
}

static void on_segment(void) {
    int id = shmget(IPC_PRIVATE, 8 * MIB, 0600 | IPC_CREAT);
    fail_if(id < 0);
    char *memory = shmat(id, NULL, 0);
    shmctl(id, IPC_RMID, NULL);
    fail_if(memory == (char *)-1);
    on_shared(memory);
}

static void on_huge_pages(void) {
    char *memory = new_anonymous(8 * MIB);
    char *aligned = (char *)(((uintptr_t)memory + 2 * MIB - 1) & ~(uintptr_t)(2 * MIB - 1));
    fail_if(madvise(aligned, 4 * MIB, MADV_HUGEPAGE) != 0);
    touch(aligned, 4 * MIB);
    answer_range(aligned, 4 * MIB, resident(aligned, 4 * MIB));
}

static void on_named(void) {
    char *memory = new_anonymous(8 * MIB);
    /* PR_SET_VMA, PR_SET_VMA_ANON_NAME */
    if (prctl(0x53564d41, 0, memory, 8 * MIB, "jemalloc_pg") != 0) {
        answer_range(NULL, 0, 0);
        return;
    }
    touch(memory, 3 * MIB);
    answer_range(memory, 8 * MIB, resident(memory, 8 * MIB));
}

int main(int argc, char **argv) {
    char line[64];
    say("ready\n");
    while (read_line(line, sizeof line)) {
        if (strcmp(line, "map") == 0 || strcmp(line, "more") == 0) {
            if (mapped == NULL)
                mapped = new_anonymous(32 * MIB);
            touch(mapped, (strcmp(line, "map") == 0 ? 10 : 16) * MIB);
            answer_range(mapped, 32 * MIB, resident(mapped, 32 * MIB));
        } else if (strcmp(line, "stacks") == 0) {
            start_threads(with_stack, STACKS);
        } else if (strcmp(line, "spin") == 0) {
            start_threads(spinning, 1);
        } else if (strcmp(line, "arenas") == 0) {
            start_threads(with_arena, ARENAS);
        } else if (strcmp(line, "memfd") == 0) {
            on_file(memfd_create("cache", 0));
        } else if (strcmp(line, "segment") == 0) {
            on_segment();
        } else if (strcmp(line, "shared") == 0) {
            on_shared(new_memory(8 * MIB, MAP_SHARED | MAP_ANONYMOUS, -1));
        } else if (strcmp(line, "file") == 0 && argc > 1) {
            on_file(open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600));
        } else if (strcmp(line, "named") == 0) {
            on_named();
        } else if (strcmp(line, "huge") == 0) {
            on_huge_pages();
        } else if (strcmp(line, "free") == 0) {
            char *memory = new_anonymous(4 * MIB);
            touch(memory, 4 * MIB);
            fail_if(madvise(memory, 4 * MIB, MADV_FREE) != 0);
            answer_range(memory, 4 * MIB, resident(memory, 4 * MIB));
        } else {
            _exit(73);
        }
    }
    return 0;
}
