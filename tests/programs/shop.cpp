// C++: operator new under a mangled name, and a bad_alloc that is thrown through a traced
// allocation function and caught. A tracer that hides a return address from the unwinder of
// exceptions would end this program.
#include "scenario.h"
#include <new>
#include <vector>

namespace shop {

class Cart {
  public:
    __attribute__((noinline)) void add(const std::vector<int> &items, unsigned count);
    __attribute__((noinline)) bool add_too_much();
};

void Cart::add(const std::vector<int> &items, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        int *copy = new int[items.size()];
        KEEP(copy);
    }
}

bool Cart::add_too_much() {
    try {
        char *impossible = static_cast<char *>(::operator new(opaque(SIZE_MAX / 4)));
        KEEP(impossible);
    } catch (const std::bad_alloc &) {
        return true;
    }
    return false;
}

} // namespace shop

int main() {
    std::vector<int> items(25);
    shop::Cart cart;
    await_go();
    cart.add(items, 8);
    for (int i = 0; i < 3; i++)
        if (!cart.add_too_much())
            _exit(80);
    cart.add(items, 2);
    done();
    return 0;
}
