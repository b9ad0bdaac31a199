// Objects of C++ of which it is known whether anything still points to them. For each function,
// "truth NAME DEFINITE INDIRECT POSSIBLE REACHABLE" in blocks, and "done"; then it waits.
#include "scenario.h"
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace {

const char *const LONG = "longer than what fits into the string itself";

struct Item {
    virtual ~Item() = default;
    std::string name = LONG;
};
struct Second {
    virtual ~Second() = default;
    long value[4] = {};
};
struct Both : Item, Second {};

std::string *volatile kept_string;
std::map<int, std::string> *volatile kept_map;
std::vector<std::unique_ptr<Item>> *volatile kept_vector;
std::list<std::shared_ptr<Item>> *volatile kept_shared;
std::string *volatile kept_array;
Second *volatile kept_base;

} // namespace

extern "C" {

SCENARIO scenario_kept_string() {
    kept_string = new std::string(LONG);
}

SCENARIO scenario_lost_string() {
    KEEP(new std::string(LONG));
}

SCENARIO scenario_kept_map() {
    kept_map = new std::map<int, std::string>;
    for (int i = 0; i < 50; i++)
        (*kept_map)[i] = LONG;
}

// Nodes of a map point to their parents: all of them are one cycle, with the map itself.
SCENARIO scenario_lost_map() {
    auto *lost = new std::map<int, std::string>;
    for (int i = 0; i < 50; i++)
        (*lost)[i] = LONG;
    KEEP(lost);
}

SCENARIO scenario_kept_vector() {
    kept_vector = new std::vector<std::unique_ptr<Item>>;
    kept_vector->reserve(20);
    for (int i = 0; i < 20; i++)
        kept_vector->push_back(std::make_unique<Item>());
}

SCENARIO scenario_lost_vector() {
    auto *lost = new std::vector<std::unique_ptr<Item>>;
    lost->reserve(20);
    for (int i = 0; i < 20; i++)
        lost->push_back(std::make_unique<Item>());
    KEEP(lost);
}

// A shared pointer points to the start of its control block, too.
SCENARIO scenario_kept_shared() {
    kept_shared = new std::list<std::shared_ptr<Item>>;
    for (int i = 0; i < 10; i++)
        kept_shared->push_back(std::make_shared<Item>());
}

// The array begins behind its length.
SCENARIO scenario_kept_array() {
    kept_array = new std::string[opaque(10)];
    for (int i = 0; i < 10; i++)
        kept_array[i] = LONG;
}

SCENARIO scenario_kept_base() {
    kept_base = new Both;
}

// The destructor was not virtual, in effect: its string is lost.
SCENARIO scenario_lost_member() {
    ::operator delete(memset(static_cast<void *>(new Item), 0, sizeof(Item)));
}

__attribute__((noinline, noclone)) static void wipe() {
    volatile char room[64 << 10];
    memset(const_cast<char *>(room), 0, sizeof room);
    KEEP(room);
}
}

int main() {
    await_go();
    scenario_kept_string();
    scenario_lost_string();
    scenario_kept_map();
    scenario_lost_map();
    scenario_kept_vector();
    scenario_lost_vector();
    scenario_kept_shared();
    scenario_kept_array();
    scenario_kept_base();
    scenario_lost_member();
    wipe();
    say("truth scenario_kept_string 0 0 0 2\n"
        "truth scenario_lost_string 1 1 0 0\n"
        "truth scenario_kept_map 0 0 0 101\n"
        "truth scenario_lost_map 1 100 0 0\n"
        "truth scenario_kept_vector 0 0 0 42\n"
        "truth scenario_lost_vector 1 41 0 0\n"
        "truth scenario_kept_shared 0 0 0 31\n"
        "truth scenario_kept_array 0 0 11 0\n"
        "truth scenario_kept_base 0 0 2 0\n"
        "truth scenario_lost_member 1 0 0 0\n");
    done();
}
