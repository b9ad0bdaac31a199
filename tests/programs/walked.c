/* A heap to walk: random calls of malloc, calloc, realloc, posix_memalign and free by several
 * threads, some of which end. Then it rests, so that its memory and its account agree.
 *
 *   walked THREADS OPERATIONS BLOCKS [nobrk] [foreign] [fork]
 *
 * nobrk: the program break can't be moved. foreign: the program moves it itself. fork: the heap is
 * a child's. BLOCKS is a file: address and malloc_usable_size() of each block that is live, 8 bytes
 * each. "done" is followed by what mallinfo2() says (arena hblks hblkhd uordblks fordblks
 * keepcost; with musl, which has no such function, by zeros), and the process id. A further line
 * makes it call malloc_trim(0), which gives memory back, and say the same again.
 */
#include "scenario.h"
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>

enum { MOST_THREADS = 16, SLOTS = 4000 };

struct worker {
    uint64_t state;
    int ends;
    void *blocks[SLOTS];
};

static struct worker *workers; /* mapped: no block of the heap */
static long operations;
static pthread_barrier_t together;

static uint64_t next(struct worker *own) {
    own->state ^= own->state << 13;
    own->state ^= own->state >> 7;
    return own->state ^= own->state << 17;
}

static size_t any_size(struct worker *own) {
    uint64_t dice = next(own) % 1000, size = next(own);

    if (dice < 700)
        return 1 + size % 200;
    if (dice < 980)
        return size % 3000;
    return dice < 997 ? size % 60000 : 131072 + size % 1000000;
}

static void *new_block(struct worker *own) {
    size_t size = any_size(own);
    void *block;

    switch (next(own) % 50) {
    case 0:
        if (posix_memalign(&block, (size_t)16 << next(own) % 10, size) != 0)
            _exit(71);
        return block;
    case 1 ... 8:
        block = calloc(opaque(1), size);
        break;
    default:
        block = malloc(size);
    }
    if (block == NULL)
        _exit(71);
    memset(block, 0x11, size);
    return block;
}

static void work(struct worker *own) {
    for (long i = 0; i < operations; i++) {
        void **slot = &own->blocks[next(own) % SLOTS];

        if (*slot == NULL) {
            *slot = new_block(own);
        } else if (next(own) % 10 == 0) {
            *slot = realloc(*slot, any_size(own) + 1);
        } else if (next(own) % 10 < 6) {
            free(*slot);
            *slot = NULL;
        }
        if (i % 1000 == 999 && own->ends == -1) {
            /* In the way of malloc, which uses the break too. */
            char *mine = sbrk(1000);

            for (size_t at = 0; at < 1000; at++)
                mine[at] = (char)next(own);
        }
    }
}

static void *run(void *own) {
    work(own);
    pthread_barrier_wait(&together);
    if (((struct worker *)own)->ends)
        return NULL;
    for (;;)
        pause();
}

static void write_blocks(const char *path, int count) {
    int file = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);

    for (int i = 0; i < count; i++)
        for (int slot = 0; slot < SLOTS; slot++) {
            void *block = workers[i].blocks[slot];
            uint64_t row[2] = {(uint64_t)block, block ? malloc_usable_size(block) : 0};

            if (block != NULL && write(file, row, sizeof row) != sizeof row)
                _exit(72);
        }
    close(file);
}

#ifndef __GLIBC__
static struct mallinfo2 {
    size_t arena, hblks, hblkhd, uordblks, fordblks, keepcost;
} mallinfo2(void) {
    return (struct mallinfo2){0};
}
#endif

static void account_of_malloc(void) {
    struct mallinfo2 info = mallinfo2();
    size_t numbers[] = {info.arena,    info.hblks,    info.hblkhd,     info.uordblks,
                        info.fordblks, info.keepcost, (size_t)getpid()};
    char line[200] = "done";
    char *end = line + 4;

    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        *end++ = ' ';
        end = put_number(end, numbers[i]);
    }
    strcpy(end, "\n");
    say(line);
}

int main(int argc, char **argv) {
    pthread_t threads[MOST_THREADS];
    int count = atoi(argv[1]), is_foreign = 0, forks = 0;

    if (argc < 4 || count >= MOST_THREADS)
        return 2;
    operations = atol(argv[2]);
    for (int i = 4; i < argc; i++) {
        is_foreign |= strcmp(argv[i], "foreign") == 0;
        forks |= strcmp(argv[i], "fork") == 0;
        if (strcmp(argv[i], "nobrk") == 0) {
            uintptr_t behind = ((uintptr_t)sbrk(0) + 40960 + 4095) & ~(uintptr_t)4095;

            if (mmap((void *)behind, 4096, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED)
                return 3;
        }
    }
    workers = mmap(NULL, sizeof *workers * (size_t)(count + 1), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_barrier_init(&together, NULL, (unsigned)count + 1);
    for (int i = 0; i <= count; i++) {
        workers[i].state = 88172645463325252ull + (uint64_t)i * 7919;
        workers[i].ends = i % 4 == 3;
    }
    workers[count].ends = is_foreign ? -1 : 0;
    await_go();
    for (int i = 0; i < count; i++)
        if (pthread_create(&threads[i], NULL, run, &workers[i]) != 0)
            return 4;
    work(&workers[count]);
    pthread_barrier_wait(&together);
    for (int i = 0; i < count; i++)
        if (workers[i].ends)
            pthread_join(threads[i], NULL);
    usleep(200000); /* the others wait in pause(), which calls no malloc */
    for (int i = 0; i < count; i++)
        for (int slot = 0; slot < SLOTS; slot += 9) {
            free(workers[i].blocks[slot]); /* by another thread than the one that made it */
            workers[i].blocks[slot] = NULL;
        }
    free(workers[count].blocks[0]);
    if (posix_memalign(&workers[count].blocks[0], 4 << 20, 100000) != 0)
        return 5;
    if (forks && fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        work(&workers[count]);
    } else if (forks) {
        for (;;)
            pause();
    }
    write_blocks(argv[3], count + 1);
    account_of_malloc();
    await_line();
#ifdef __GLIBC__
    malloc_trim(0);
    account_of_malloc();
    await_line();
#endif
}
