// Blocks from before the trace beside those that come and go. Its own account, before "ready":
// "older COUNT BYTES", what it holds then, by malloc_usable_size; and "lost COUNT".
//
//   older     each line of its input is a command; it answers "done"
//     churn   four threads allocate and free blocks of all sizes until the end
//     free    free the half of the sessions; it says "freed COUNT"
#include "scenario.h"
#include <malloc.h>
#include <pthread.h>

namespace shop {

class Session {
  public:
    virtual ~Session() = default;
    long values[10] = {};
};

} // namespace shop

namespace {

constexpr size_t SESSIONS = 3000, LOST = 700, TEXTS = 500, CHURNERS = 4, SLOTS = 64;

shop::Session *sessions[SESSIONS];
char *texts[TEXTS];

void *churn(void *number) {
    void *slots[SLOTS] = {};
    uint64_t state = 1 + reinterpret_cast<uintptr_t>(number);
    for (;;) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        void *&slot = slots[state % SLOTS];
        size_t size = state % 1000 == 0 ? 200'000 : 16 + state / 7 % 2000;
        if (state % 3 == 0) {
            slot = realloc(slot, size);
        } else {
            free(slot);
            slot = malloc(size);
        }
        KEEP(slot);
    }
    return nullptr;
}

} // namespace

extern "C" {

SCENARIO make_all() {
    size_t count = 0, bytes = 0;
    for (size_t i = 0; i < SESSIONS + LOST; i++) {
        auto *one = new shop::Session;
        KEEP(one);
        if (i < SESSIONS)
            sessions[i] = one;
        count++, bytes += malloc_usable_size(one);
    }
    for (char *&text : texts) {
        text = static_cast<char *>(calloc(1, 150));
        strcpy(text, "GET /api/item");
        count++, bytes += malloc_usable_size(text);
    }
    print_result("older", count);
    print_result("bytes", bytes);
    print_result("lost", LOST);
}

SCENARIO free_half() {
    for (size_t i = 0; i < SESSIONS; i += 2) {
        delete sessions[i];
        sessions[i] = nullptr;
    }
    print_result("freed", SESSIONS / 2);
}

// What calls left on the stack is no pointer any more.
SCENARIO clear_stack() {
    char room[16 << 10];
    memset(room, 0, sizeof room);
    KEEP(room);
}
}

int main() {
    make_all();
    clear_stack();
    say("ready\n");
    char line[64];
    while (read_line(line, sizeof line)) {
        if (strcmp(line, "churn") == 0) {
            for (size_t i = 0; i < CHURNERS; i++) {
                pthread_t thread;
                if (pthread_create(&thread, nullptr, churn, reinterpret_cast<void *>(i)) != 0)
                    _exit(72);
            }
        } else if (strcmp(line, "free") == 0) {
            free_half();
            clear_stack();
        }
        say("done\n");
    }
    return 0;
}
