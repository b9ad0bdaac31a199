/* A program that moves its code into anonymous memory, as others do to have it on huge pages:
 * moved_text HOW WHEN.
 *
 *   HOW    all; part: all except its first and its last page; changed: all, and one page has
 *          other contents
 *   WHEN   early: before it is "ready"; late: after the line "go"
 *
 * Then 64 functions, all over its code, keep a block each: keep_000 to keep_077, in octal, one of
 * 1000 bytes plus that number. */
#include "scenario.h"
#include <link.h>
#include <sys/mman.h>

enum { PAGE_BYTES = 4096, FIRST_BYTES = 1000, KEEPERS = 64 };

/* Code that is never executed, different in each function, so that there are pages between the
 * keepers. */
#define SPREAD(n)                                                                                  \
    __asm__ volatile("jmp 1f\n"                                                                    \
                     ".set number, " #n "\n"                                                       \
                     ".rept 60\n"                                                                  \
                     "mov $number * 7919, %%eax\n"                                                 \
                     "add $number + 1, %%ecx\n"                                                    \
                     "lea 1(%%rax, %%rcx, 4), %%rdx\n"                                             \
                     ".set number, number + 257\n"                                                 \
                     ".endr\n"                                                                     \
                     "1:" ::                                                                       \
                         : "rax", "rcx", "rdx", "cc")
#define KEEPER(n)                                                                                  \
    SCENARIO keep_##n(void) {                                                                      \
        SPREAD(n);                                                                                 \
        KEEP(malloc(FIRST_BYTES + n));                                                             \
    }
#define EIGHT(X, n) X(n##0) X(n##1) X(n##2) X(n##3) X(n##4) X(n##5) X(n##6) X(n##7)
#define HALF(X, n) EIGHT(X, n##0) EIGHT(X, n##1) EIGHT(X, n##2) EIGHT(X, n##3)
#define OTHER_HALF(X, n) EIGHT(X, n##4) EIGHT(X, n##5) EIGHT(X, n##6) EIGHT(X, n##7)
#define POINTER(n) keep_##n,

HALF(KEEPER, 0)
OTHER_HALF(KEEPER, 0)

static void (*const keepers[KEEPERS])(void) = {HALF(POINTER, 0) OTHER_HALF(POINTER, 0)};
static uintptr_t text_start, text_end;

SCENARIO never_called(void) {
    SPREAD(70);
    SPREAD(71);
    SPREAD(72);
    SPREAD(73);
    SPREAD(74);
    SPREAD(75);
    SPREAD(76);
    SPREAD(77);
    SPREAD(78);
    SPREAD(79);
    SPREAD(80);
    SPREAD(81);
    SPREAD(82);
    SPREAD(83);
}

static int find_text(struct dl_phdr_info *info, size_t size, void *unused) {
    (void)size;
    (void)unused;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        if (segment->p_type == PT_LOAD && segment->p_flags & PF_X) {
            uintptr_t start = info->dlpi_addr + segment->p_vaddr;
            text_start = start & -(uintptr_t)PAGE_BYTES;
            text_end = (start + segment->p_memsz + PAGE_BYTES - 1) & -(uintptr_t)PAGE_BYTES;
        }
    }
    return 1; /* the first one is the program */
}

/* One system call puts the copy in the place of the code that runs; it returns to the same. */
static void move(const char *how) {
    dl_iterate_phdr(find_text, NULL);
    uintptr_t start = text_start, end = text_end;
    if (strcmp(how, "part") == 0) {
        start += PAGE_BYTES;
        end -= PAGE_BYTES;
    }
    char *copy =
        mmap(NULL, end - start, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED)
        _exit(70);
    memcpy(copy, (void *)start, end - start);
    if (strcmp(how, "changed") == 0)
        memset(copy + ((uintptr_t)never_called - start), 0xc3, PAGE_BYTES);
    if (mprotect(copy, end - start, PROT_READ | PROT_EXEC) != 0)
        _exit(71);
    if (mremap(copy, end - start, end - start, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)start) ==
        MAP_FAILED)
        _exit(72);
}

int main(int argc, char **argv) {
    if (argc < 3)
        _exit(73);
    int early = strcmp(argv[2], "early") == 0;
    unsigned long long bytes = 0;
    if (early)
        move(argv[1]);
    await_go();
    if (!early)
        move(argv[1]);
    for (int i = 0; i < KEEPERS; i++) {
        keepers[i]();
        bytes += FIRST_BYTES + (unsigned)i;
    }
    done_with_account(bytes, KEEPERS);
    return 0;
}
