// A heap of which it is known what is in it. Before "done" it says "group NAME COUNT SIZE LOST":
// SIZE is malloc_usable_size of each; and "free BYTES", what it has freed below a block in use.
//
//   heap_blocks    each line of its input is a command; it answers "done"
//     all          make the blocks
//     grow COUNT   make COUNT more sessions, and keep them
//     exit         end
#include "scenario.h"
#include <malloc.h>
#include <string>
#include <typeinfo>
#include <vector>

namespace shop {

class Session {
  public:
    virtual ~Session() = default;
    long values[10] = {};
};

template <typename T> class Cached : public Session {
  public:
    T more[4] = {};
};

} // namespace shop

namespace {

std::vector<shop::Session *> kept_sessions;
struct Node {
    Node *next;
    long values[7];
};
Node *volatile kept_nodes;
void *volatile kept_first, *volatile kept_last;

struct Group {
    const char *name;
    size_t count, size, lost;
};

void tell(const Group &group) {
    std::string line = std::string("group ") + group.name;
    for (size_t number : {group.count, group.size, group.lost})
        line += " " + std::to_string(number);
    say((line + "\n").c_str());
}

void *zeros(size_t size) {
    void *found = malloc(size);
    if (found == nullptr)
        _exit(71);
    memset(found, 0, size);
    KEEP(found);
    return found;
}

} // namespace

extern "C" {

SCENARIO make_sessions(size_t kept, size_t lost) {
    size_t size = 0;
    for (size_t i = 0; i < kept + lost; i++) {
        auto *one = new shop::Session;
        KEEP(one);
        if (i < kept)
            kept_sessions.push_back(one);
        size = malloc_usable_size(one);
    }
    tell({"shop::Session", kept_sessions.size() + lost, size, lost});
}

SCENARIO make_cached(size_t lost) {
    size_t size = 0;
    for (size_t i = 0; i < lost; i++) {
        auto *one = new shop::Cached<int>;
        KEEP(one);
        size = malloc_usable_size(one);
    }
    tell({"shop::Cached<int>", lost, size, lost});
}

SCENARIO make_texts(size_t lost) {
    size_t size = 0;
    for (size_t i = 0; i < lost; i++) {
        auto *one = static_cast<char *>(zeros(200));
        std::string text = "GET /api/v1/item/" + std::to_string(i);
        memcpy(one, text.c_str(), text.size());
        KEEP(one);
        size = malloc_usable_size(one);
    }
    tell({"GET", lost, size, lost});
}

SCENARIO make_nodes(size_t count) {
    size_t size = 0;
    for (size_t i = 0; i < count; i++) {
        auto *one = static_cast<Node *>(zeros(sizeof(Node)));
        one->next = kept_nodes;
        kept_nodes = one;
        size = malloc_usable_size(one);
    }
    // The first one has no next.
    tell({"node", count - 1, size, 0});
}

SCENARIO make_large(size_t count) {
    size_t size = 0;
    for (size_t i = 0; i < count; i++)
        size = malloc_usable_size(zeros(4 << 20));
    tell({"large", count, size, count});
}

// Free memory between two blocks that are in use.
SCENARIO make_free() {
    kept_first = zeros(100'000);
    void *between[20];
    for (void *&one : between)
        one = zeros(50'000);
    kept_last = zeros(100'000);
    size_t freed = 0;
    for (void *&one : between) {
        freed += malloc_usable_size(one) + 8;
        free(one);
        one = nullptr;
    }
    KEEP(between);
    print_result("free", freed);
}

// What calls left on the stack is no pointer any more.
SCENARIO clear_stack() {
    char room[16 << 10];
    memset(room, 0, sizeof room);
    KEEP(room);
}
}

int main() {
    kept_sessions.reserve(10'000);
    say("ready\n");
    char line[64];
    while (read_line(line, sizeof line)) {
        if (strcmp(line, "all") == 0) {
            make_sessions(300, 200);
            make_cached(70);
            make_texts(400);
            make_nodes(500);
            make_large(3);
            make_free();
        } else if (strncmp(line, "grow ", 5) == 0) {
            make_sessions(strtoul(line + 5, nullptr, 10), 0);
        } else if (strcmp(line, "exit") == 0) {
            break;
        }
        clear_stack();
        say("done\n");
    }
    return 0;
}
