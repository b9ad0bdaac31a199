/* C++ operators of an allocator that doesn't forward them to malloc. Each form once a hundred
 * times, kept, and once a hundred times, deleted. */
#include "scenario.h"
#include <new>

struct alignas(64) Line {
    char bytes[64];
};

SCENARIO scenario_keep() {
    for (int i = 0; i < 100; i++) {
        KEEP(new char[1000]);
        KEEP(new (std::nothrow) char[10]);
        KEEP(new int);
        KEEP(new Line);
    }
}

SCENARIO scenario_delete() {
    for (int i = 0; i < 100; i++) {
        char *array = new char[1000];
        KEEP(array);
        delete[] array;
        int *number = new int;
        KEEP(number);
        delete number;
        Line *line = new Line;
        KEEP(line);
        delete line;
    }
}

int main() {
    await_go();
    scenario_keep();
    scenario_delete();
    done();
}
