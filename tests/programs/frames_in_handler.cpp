// What backtrace() and the unwinder see from a new_handler, which operator new calls, is printed.
#include "frames.h"
#include <new>

static void print_and_refuse() {
    print_backtrace();
    print_unwound();
    throw std::bad_alloc();
}

SCENARIO scenario() {
    for (size_t i = 0; i < opaque(3); i++)
        KEEP(new char[100]);
}

int main() {
    load_unwinder();
    await_go();
    std::set_new_handler(print_and_refuse);
    unsigned thrown = 0;
    for (int i = 0; i < 3; i++) {
        try {
            KEEP(::operator new(opaque((size_t)1 << 62)));
        } catch (const std::bad_alloc &) {
            thrown++;
        }
        try {
            KEEP(::operator new[](opaque((size_t)1 << 62)));
        } catch (const std::bad_alloc &) {
            thrown++;
        }
    }
    print_result("thrown", thrown);
    scenario();
    account(300, 3);
    done();
    return 3;
}
