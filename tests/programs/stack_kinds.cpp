/* Stacks of every kind that C++ compilers make, without end, in two threads: operator new from
 * deep in the standard library, exceptions under way, virtual calls, std::function, alloca,
 * realigned frames, variable-length arrays, a signal handler, callbacks from within libc. With an
 * argument, a timer interrupts it at any instruction, and maps a page from there: "computing" in
 * its own code, "anywhere" also on return from the kernel. */
#include "scenario.h"
#include <alloca.h>
#include <algorithm>
#include <csignal>
#include <functional>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <sys/mman.h>
#include <sys/time.h>
#include <vector>

#define APART __attribute__((noinline, noclone))

struct Node {
    std::string name;
    std::vector<std::unique_ptr<Node>> children;
    virtual ~Node() {}
    virtual void build(int depth);
};

struct Leaf : Node {
    void build(int depth) override {
        name = std::string(40 + depth, 'x');
    }
};

void Node::build(int depth) {
    name = "node number " + std::to_string(depth) + std::string(30, 'y');
    for (int i = 0; i < 2; i++) {
        std::unique_ptr<Node> child;
        if (depth > 1)
            child = std::make_unique<Node>();
        else
            child = std::make_unique<Leaf>();
        child->build(depth - 1);
        children.push_back(std::move(child));
    }
}

static APART void fill_map(int number) {
    static thread_local std::map<std::string, std::vector<int>> numbers;
    std::ostringstream key;
    key << "a key too long to be kept in place " << number % 50;
    numbers[key.str()].push_back(number);
    if (numbers.size() > 40)
        numbers.clear();
}

static APART void throw_from(int depth) {
    if (depth == 0)
        throw std::runtime_error("a message that is long enough to be allocated on the heap");
    std::vector<int> local(depth);
    throw_from(depth - 1);
    KEEP(local.data());
}

/* Allocates while the exception passes through. */
struct Noisy {
    ~Noisy() {
        char *block = new char[50];
        KEEP(block);
        delete[] block;
    }
};

static APART void clean_up_on_the_way(int depth) {
    Noisy noisy;
    throw_from(depth);
}

static APART void realign(int size) {
    volatile long double variable[size];
    alignas(64) char fixed[64];
    KEEP(fixed);
    KEEP(variable);
    auto block = std::make_unique<char[]>(100 + size);
    KEEP(block.get());
}

static APART void on_the_stack(int size) {
    char *room = static_cast<char *>(alloca(size * 16));
    memset(room, size, size * 16);
    KEEP(room);
    std::string text(60 + size, 'a');
    KEEP(text.data());
}

static int compare(const void *left, const void *right) {
    std::string text(30 + *static_cast<const int *>(left), 'q');
    KEEP(text.data());
    return *static_cast<const int *>(left) - *static_cast<const int *>(right);
}

static void on_signal(int) {
    char *block = new char[77];
    KEEP(block);
    delete[] block;
}

static APART void once(int number) {
    Node root;
    root.build(4);
    fill_map(number);
    try {
        clean_up_on_the_way(6);
    } catch (const std::exception &) {
    }
    std::function<void(int)> descend = [&](int depth) {
        if (depth) {
            descend(depth - 1);
            return;
        }
        std::vector<std::string> words;
        for (int i = 0; i < 10; i++)
            words.push_back(std::string(20 + i * 3, static_cast<char>('a' + (i * 7) % 20)));
        std::sort(words.begin(), words.end(), [](std::string a, std::string b) { return a < b; });
        realign(number % 9 + 1);
        on_the_stack(number % 50 + 1);
    };
    descend(4);
    int numbers[] = {5, 3, 9, 1};
    qsort(numbers, 4, sizeof numbers[0], compare);
    raise(SIGUSR1);
}

/* mmap, because malloc must not be called from a signal handler. */
static void on_timer(int) {
    static int left_to_keep = 1000;
    void *page = mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    KEEP(page);
    if (--left_to_keep < 0)
        munmap(page, 4096);
}

int main(int argc, char **argv) {
    signal(SIGUSR1, on_signal);
    await_go();
    if (argc > 1) {
        bool anywhere = strcmp(argv[1], "anywhere") == 0;
        itimerval often = {};
        often.it_interval.tv_usec = often.it_value.tv_usec = 1000;
        signal(anywhere ? SIGALRM : SIGVTALRM, on_timer);
        setitimer(anywhere ? ITIMER_REAL : ITIMER_VIRTUAL, &often, nullptr);
    }
    std::thread other([] {
        for (int i = 0;; i++)
            once(i);
    });
    for (int i = 0;; i++)
        once(i);
}
