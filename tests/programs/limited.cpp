// A program's own operator new, which keeps to a limit by throwing bad_alloc. It is hooked where
// malloc is in the same file: in a static program, or with its own malloc (plain_malloc.c).
#include "scenario.h"
#include <malloc.h>
#include <new>

enum : size_t { LIMIT = 100000 };

static size_t live_bytes;

static void *within_limit(size_t size) {
    if (live_bytes + size > LIMIT)
        throw std::bad_alloc();
    void *block = malloc(size);
    if (block == nullptr)
        _exit(71);
    live_bytes += malloc_usable_size(block);
    return block;
}

static void give_back(void *block) {
    if (block != nullptr)
        live_bytes -= malloc_usable_size(block);
    free(block);
}

__attribute__((noinline)) void *operator new(size_t size) {
    void *block = within_limit(size);
    KEEP(block);
    return block;
}
__attribute__((noinline)) void *operator new[](size_t size) {
    void *block = within_limit(size);
    KEEP(block);
    return block;
}
__attribute__((noinline)) void operator delete(void *block) noexcept {
    give_back(block);
}
__attribute__((noinline)) void operator delete[](void *block) noexcept {
    give_back(block);
}
__attribute__((noinline)) void operator delete(void *block, size_t) noexcept {
    give_back(block);
}
__attribute__((noinline)) void operator delete[](void *block, size_t) noexcept {
    give_back(block);
}

static void fill_up() {
    static void *blocks[LIMIT / 1000 + 1];
    unsigned count = 0, thrown = 0;
    try {
        while (count < sizeof blocks / sizeof *blocks) {
            blocks[count] = count % 2 ? ::operator new(1000) : ::operator new[](1000);
            KEEP(blocks[count]);
            count++;
        }
    } catch (const std::bad_alloc &) {
        thrown++;
    }
    for (int i = 0; i < 10; i++) {
        try {
            KEEP(new char[5000]);
        } catch (const std::bad_alloc &) {
            thrown++;
        }
        KEEP(new (std::nothrow) char[5000]);
    }
    for (unsigned i = 0; i < count; i++)
        i % 2 ? ::operator delete(blocks[i]) : ::operator delete[](blocks[i]);
    print_result("allocated", count);
    print_result("thrown", thrown);
}

SCENARIO scenario() {
    for (int i = 0; i < 20; i++) {
        KEEP(new char[400]);
        KEEP(new int);
    }
}

int main() {
    await_go();
    for (int i = 0; i < 20; i++)
        fill_up();
    print_result("live", live_bytes);
    scenario();
    account(20 * 404, 40);
    done();
    return 3;
}
