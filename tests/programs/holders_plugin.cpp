// A library whose static variables hold blocks: an array of pointers, a map of objects, and a list
// of objects that it makes as it is loaded.
#include <cstdlib>
#include <map>

namespace plugin {

struct Session {
    virtual ~Session() = default;
    void *buffer = nullptr;
    long values[20] = {};
};

// Older than the trace, since the library is loaded before it.
struct Registry {
    virtual ~Registry() = default;
    Registry *next = nullptr;
    void *held[16] = {};
};

static Registry *make_registries(int count) {
    Registry *first = nullptr;
    for (int i = 0; i < count; i++) {
        auto *one = new Registry;
        one->next = first;
        first = one;
    }
    return first;
}

static Registry *volatile registries = make_registries(3);
static void *volatile cache[50];
static std::map<int, Session *> sessions;

} // namespace plugin

#define MAKER __attribute__((noinline, noclone)) static

extern "C" {

MAKER void *make_of_cache() {
    void *block = calloc(1, 120);
    __asm__ volatile("" ::"r"(block) : "memory");
    return block;
}

MAKER void *make_of_registry() {
    void *block = calloc(1, 168);
    __asm__ volatile("" ::"r"(block) : "memory");
    return block;
}

MAKER void *make_buffer() {
    void *block = calloc(1, 216);
    __asm__ volatile("" ::"r"(block) : "memory");
    return block;
}

MAKER plugin::Session *make_session() {
    auto *session = new plugin::Session;
    __asm__ volatile("" ::"r"(session) : "memory");
    return session;
}

void fill_plugin() {
    for (auto &place : plugin::cache)
        place = make_of_cache();
    for (plugin::Registry *one = plugin::registries; one != nullptr; one = one->next)
        for (auto &place : one->held)
            place = make_of_registry();
    for (int i = 0; i < 150; i++) {
        plugin::Session *session = make_session();
        session->buffer = make_buffer();
        plugin::sessions[i] = session;
    }
}

} // extern "C"
