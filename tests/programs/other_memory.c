/* Takes memory from the kernel in ways that are neither malloc nor anonymous mmap: segments of
 * SysV, memfds and files in /dev/shm, the program break. Does what its lines ask for; what it holds
 * then is in /proc/PID/maps, and of the break in its answer: "done BYTES COUNT".
 *
 *   segments  attached, detached, unmapped in part, attached over another, refused
 *   files     memfds and shm_open: mapped, unmapped in part, moved, replaced; and what is no shared
 *             memory: private and anonymous mappings, and a file on disk (argv[1])
 *   break     raised and lowered, by sbrk and brk, while malloc raises it for itself
 *   heap      malloc and free only, with malloc_trim
 *   touched   32 MiB of each kind, all resident
 *   same      one call of mmap maps a memfd and anonymous memory
 *   exec      executes itself
 *   fork      a child, which does what "child LINE" asks for; answers "done PID"
 */
#include "asked_child.h"
#include "scenario.h"
#include <fcntl.h>
#include <malloc.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>

enum { PAGE = 4096, BLOCKS = 20000, BLOCK_BYTES = 100 };
#define SEGMENT_BYTES (1UL << 20)

static void *blocks;
static unsigned long long raised_bytes, raised_count;

static void check(int is_right, int status) {
    if (!is_right)
        _exit(status);
}

/* --- segments -------------------------------------------------------------------------------- */

__attribute__((noinline, noclone)) char *attach(size_t size, int times, char *at, int flags) {
    int id = shmget(IPC_PRIVATE, size, 0600 | IPC_CREAT);
    char *memory = NULL;
    check(id >= 0, 80);
    for (int i = 0; i < times; i++) {
        memory = shmat(id, at, flags);
        check(memory != (void *)-1, 81);
    }
    shmctl(id, IPC_RMID, NULL);
    return memory;
}

SCENARIO keep_segments(void) {
    for (size_t i = 0; i < opaque(5); i++)
        KEEP(attach(SEGMENT_BYTES, 1, NULL, 0));
    KEEP(attach(SEGMENT_BYTES - 100, 3, NULL, SHM_RDONLY)); /* no whole page, and three times */
}

SCENARIO release_segments(void) {
    for (size_t i = 0; i < opaque(5); i++)
        check(!shmdt(attach(SEGMENT_BYTES, 1, NULL, 0)), 82);
}

SCENARIO keep_parts(void) {
    char *memory = attach(16 * PAGE, 1, NULL, 0);
    check(!munmap(memory, PAGE) && !munmap(memory + 5 * PAGE, 3 * PAGE), 83);
    memory = attach(16 * PAGE, 1, NULL, 0); /* detached as a whole, although it has a hole */
    check(!munmap(memory + 5 * PAGE, 3 * PAGE) && !shmdt(memory), 84);
    memory = attach(16 * PAGE, 1, NULL, 0); /* its second half is replaced */
    attach(8 * PAGE, 1, memory + 8 * PAGE, SHM_REMAP);
    memory = mremap(attach(16 * PAGE, 1, NULL, 0), 16 * PAGE, 8 * PAGE, 0);
    check(memory != MAP_FAILED, 98); /* without its end */
    memory = attach(16 * PAGE, 1, NULL, 0);
    KEEP(mmap(memory, 4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
}

SCENARIO be_refused(void) {
    char *memory = attach(2 * PAGE, 1, NULL, 0);
    for (size_t i = 0; i < opaque(5); i++)
        check(shmat(-1, NULL, 0) == (void *)-1 && shmdt(memory + PAGE) == -1, 85);
}

/* --- files ----------------------------------------------------------------------------------- */

static int memfd(size_t size) {
    int file = memfd_create("held", 0);
    check(file >= 0 && !ftruncate(file, (off_t)size), 86);
    return file;
}

static char *map(size_t size, int flags, int file) {
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, file, 0);
    check(memory != MAP_FAILED, 87);
    KEEP(memory);
    if (file >= 0)
        close(file);
    return memory;
}

SCENARIO keep_memfds(void) {
    for (size_t i = 0; i < opaque(5); i++)
        map(SEGMENT_BYTES, MAP_SHARED, memfd(SEGMENT_BYTES));
}

SCENARIO release_memfds(void) {
    for (size_t i = 0; i < opaque(5); i++)
        check(!munmap(map(SEGMENT_BYTES, MAP_SHARED, memfd(SEGMENT_BYTES)), SEGMENT_BYTES), 88);
}

SCENARIO keep_named(void) {
    char name[40] = "/leaktrace-";
    put_number(name + strlen(name), (unsigned long long)getpid());
    for (size_t i = 0; i < opaque(3); i++) {
        int file = shm_open(name, O_RDWR | O_CREAT, 0600);
        check(file >= 0 && !ftruncate(file, 8 * PAGE), 89);
        map(8 * PAGE, MAP_SHARED, file);
        shm_unlink(name);
    }
}

SCENARIO keep_parts_of_memfds(void) {
    char *memory = map(16 * PAGE, MAP_SHARED, memfd(16 * PAGE));
    check(!munmap(memory + 5 * PAGE, 3 * PAGE), 90);
    memory = map(16 * PAGE, MAP_SHARED, memfd(64 * PAGE));
    memory = mremap(memory, 16 * PAGE, 48 * PAGE, MREMAP_MAYMOVE);
    check(memory != MAP_FAILED, 91);
    memory = map(16 * PAGE, MAP_SHARED, memfd(16 * PAGE));
    KEEP(mmap(memory, 4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
}

SCENARIO keep_others(const char *path) {
    int file = open(path, O_RDWR);
    check(file >= 0, 92);
    map(2 * PAGE, MAP_SHARED, file);
    map(4 * PAGE, MAP_PRIVATE, memfd(4 * PAGE));
    map(8 * PAGE, MAP_SHARED | MAP_ANONYMOUS, -1);
    map(16 * PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

SCENARIO keep_both(void) {
    for (size_t i = 0; i < opaque(10); i++) {
        int is_shared = opaque(i) % 2;
        map(4 * PAGE, is_shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS,
            is_shared ? memfd(4 * PAGE) : -1);
    }
}

/* --- the program break ----------------------------------------------------------------------- */

static void allocate(void) {
    for (size_t i = 0; i < opaque(BLOCKS); i++) {
        void **block = malloc(BLOCK_BYTES);
        check(block != NULL, 93);
        *block = blocks;
        blocks = block;
    }
}

static void release(void) {
    while (blocks != NULL) {
        void *block = blocks;
        blocks = *(void **)block;
        free(block);
    }
}

static void *raise_by(intptr_t size) {
    void *memory = sbrk(size);
    check(memory != (void *)-1, 94);
    KEEP(memory);
    return memory;
}

SCENARIO keep_break(void) {
    static const size_t sizes[] = {1, 100, PAGE, 3 * PAGE + 7, SEGMENT_BYTES, 50};
    for (size_t i = 0; i < opaque(sizeof sizes / sizeof *sizes); i++) {
        raise_by((intptr_t)sizes[i]);
        raised_bytes += sizes[i];
        raised_count++;
    }
}

SCENARIO lower_break(void) {
    for (size_t i = 0; i < opaque(5); i++) {
        raise_by(1000);
        raise_by(5000);
        raise_by(-5500); /* all of the second, and half of the first */
        raised_bytes += 500;
        raised_count++;
    }
    check(raise_by(0) == sbrk(0), 95);
}

SCENARIO set_break(void) {
    char *before = sbrk(0);
    check(!brk(before + 12345) && !brk(before + 20000) && !brk(before + 11111), 96);
    raised_bytes += 11111;
    raised_count++;
    check(sbrk(INTPTR_MAX) == (void *)-1, 97);
}

SCENARIO keep_touched(void) {
    size_t size = 32 * SEGMENT_BYTES;
    memset(attach(size, 1, NULL, 0), 1, size);
    memset(map(size, MAP_SHARED, memfd(size)), 1, size);
    memset(raise_by((intptr_t)size), 1, size);
    raised_bytes += size;
    raised_count++;
}

/* --- what it is told ------------------------------------------------------------------------- */

static void work(const char *line, char **argv) {
    if (!strcmp(line, "segments")) {
        keep_segments();
        release_segments();
        keep_parts();
        be_refused();
    } else if (!strcmp(line, "files")) {
        keep_memfds();
        release_memfds();
        keep_named();
        keep_parts_of_memfds();
        keep_others(argv[1]);
    } else if (!strcmp(line, "same")) {
        keep_both();
    } else if (!strcmp(line, "break")) {
        keep_break();
        allocate();
        lower_break();
        set_break();
        allocate();
    } else if (!strcmp(line, "touched")) {
        keep_touched();
    } else if (!strcmp(line, "lower")) {
        lower_break();
    } else if (!strcmp(line, "heap")) {
        for (size_t i = 0; i < opaque(3); i++) {
            allocate();
            release();
            malloc_trim(0);
        }
    } else {
        _exit(74);
    }
}

int main(int argc, char **argv) {
    char line[64];

    (void)argc;
    free(malloc(1)); /* the heap exists before anything is compared */
    say("ready\n");
    while (read_line(line, sizeof line)) {
        if (!strncmp(line, "child ", 6)) {
            ask_child(line + 6);
            continue;
        }
        if (!strcmp(line, "fork")) {
            fork_child();
            continue;
        }
        if (!strcmp(line, "exec"))
            execv("/proc/self/exe", argv);
        work(line, argv);
        char answer[80] = "done ";
        char *end = put_number(answer + 5, raised_bytes);
        *end++ = ' ';
        end = put_number(end, raised_count);
        *end++ = '\n';
        *end = '\0';
        say(answer);
    }
    if (to_child) {
        close(to_child);
        wait(NULL);
    }
    return 0;
}
