/* One block from a stack of a certain shape, on command. Each command is answered with "done".
 *
 *   dig LEVELS SIZE        from under LEVELS frames of one function
 *   inner SIZE             scenario_outer -> scenario_inner -> malloc
 *   generated KIND SIZE    from generated code without unwind information, which calls
 *                          scenario_called_back. KIND "kept": it keeps a frame pointer; "nested":
 *                          so does another one above it; "lost": rbp holds a number instead;
 *                          "returning": the same, but nothing is done between the call and the
 *                          return; "direct": it keeps a frame pointer and calls malloc itself
 *   renew                  make the generated code again, at another address
 *   announce               write /tmp/perf-PID.map, which names the generated code
 */
#include "scenario.h"
#include <fcntl.h>
#include <sys/mman.h>

typedef void (*Callback)(size_t);
typedef void (*Generated)(Callback, size_t);

static Generated with_frame_pointer, without, returning;

__attribute__((noinline, noclone)) void dig(size_t levels, size_t size) {
    if (levels <= 1)
        KEEP(malloc(size));
    else
        dig(levels - 1, size);
    KEEP(levels);
}

SCENARIO scenario_inner(size_t size) {
    KEEP(malloc(size));
    KEEP(size);
}

SCENARIO scenario_outer(size_t size) {
    scenario_inner(size);
    KEEP(size);
}

SCENARIO scenario_called_back(size_t size) {
    KEEP(malloc(size));
    KEEP(size);
}

SCENARIO scenario_nested(size_t size) {
    with_frame_pointer(scenario_called_back, size);
    KEEP(size);
}

SCENARIO scenario_generated(const char *kind, size_t size) {
    if (strncmp(kind, "kept", 4) == 0)
        with_frame_pointer(scenario_called_back, size);
    else if (strncmp(kind, "nested", 6) == 0)
        with_frame_pointer(scenario_nested, size);
    else if (strncmp(kind, "direct", 6) == 0)
        with_frame_pointer((Callback)malloc, size);
    else if (strncmp(kind, "returning", 9) == 0)
        returning(scenario_called_back, size);
    else
        without(scenario_called_back, size);
    KEEP(size);
}

/* What a compiler would generate for: void f(Callback callback, size_t size) { callback(size); } */
static void generate(void) {
    static const unsigned char keeping[] = {
        0x55,             /* push %rbp */
        0x48, 0x89, 0xe5, /* mov %rsp,%rbp */
        0x48, 0x89, 0xf8, /* mov %rdi,%rax */
        0x48, 0x89, 0xf7, /* mov %rsi,%rdi */
        0xff, 0xd0,       /* call *%rax */
        0x5d,             /* pop %rbp */
        0xc3,             /* ret */
    };
    static const unsigned char losing[] = {
        0x55,                         /* push %rbp */
        0xbd, 0x01, 0x00, 0x00, 0x00, /* mov $1,%ebp */
        0x48, 0x89, 0xf8,             /* mov %rdi,%rax */
        0x48, 0x89, 0xf7,             /* mov %rsi,%rdi */
        0xff, 0xd0,                   /* call *%rax */
        0x5d,                         /* pop %rbp */
        0xc3,                         /* ret */
    };
    static const unsigned char at_once[] = {
        0x48, 0x83, 0xec, 0x18, /* sub $24,%rsp */
        0x48, 0x89, 0xf8,       /* mov %rdi,%rax */
        0x48, 0x89, 0xf7,       /* mov %rsi,%rdi */
        0xff, 0xd0,             /* call *%rax */
        0x48, 0x83, 0xc4, 0x18, /* add $24,%rsp */
        0xc3,                   /* ret */
    };
    unsigned char *page =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        _exit(80);
    memcpy(page, keeping, sizeof keeping);
    memcpy(page + 64, losing, sizeof losing);
    memcpy(page + 128, at_once, sizeof at_once);
    with_frame_pointer = (Generated)(uintptr_t)page;
    without = (Generated)(uintptr_t)(page + 64);
    returning = (Generated)(uintptr_t)(page + 128);
}

static char *put_hexadecimal(char *end, uintptr_t number) {
    for (int shift = 60; shift >= 0; shift -= 4)
        *end++ = "0123456789abcdef"[number >> shift & 15];
    return end;
}

static void announce(void) {
    char name[64] = "/tmp/perf-", line[64], *end;
    end = put_number(name + strlen(name), (unsigned long long)getpid());
    memcpy(end, ".map", 5);
    int file = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    end = put_hexadecimal(line, (uintptr_t)with_frame_pointer);
    memcpy(end, " 40 generated_code\n", 19);
    if (file < 0 || write(file, line, (size_t)(end + 19 - line)) < 0)
        _exit(81);
    close(file);
}

int main(void) {
    char line[128];
    generate();
    say("ready\n");
    while (read_line(line, sizeof line)) {
        char *rest = strchr(line, ' ');
        char *size = rest ? strrchr(rest, ' ') : line;
        if (strncmp(line, "dig ", 4) == 0)
            dig(strtoul(rest, NULL, 10), strtoul(size, NULL, 10));
        else if (strncmp(line, "inner ", 6) == 0)
            scenario_outer(strtoul(rest, NULL, 10));
        else if (strncmp(line, "generated ", 10) == 0)
            scenario_generated(rest + 1, strtoul(size, NULL, 10));
        else if (strcmp(line, "renew") == 0)
            generate();
        else if (strcmp(line, "announce") == 0)
            announce();
        else
            _exit(78);
        say("done\n");
    }
    return 0;
}
