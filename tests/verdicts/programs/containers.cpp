/* Containers of C++. */
#include "case.h"
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace {

std::map<long, std::string> by_number;
std::vector<std::unique_ptr<std::string>> texts;
std::vector<long> numbers;
std::string text;

NAMED void insert_here(long key) {
    by_number.emplace(key, "a value that is too long to be stored in the string itself");
}

NAMED void append_text_here() {
    texts.push_back(std::make_unique<std::string>(60, 'x'));
}

NAMED void append_number_here(long number) {
    numbers.push_back(number);
}

NAMED void append_here(const char *more) {
    text.append(more);
}

/* A map that only grows: two blocks per entry. */
CASE(leak_map) {
    while (tick())
        if (ticks() % 2 == 0) {
            insert_here(ticks());
            leaked(160);
        }
}

/* A vector of pointers: the texts grow evenly, the vector itself in steps. */
CASE(leak_vector_of_texts) {
    while (tick()) {
        append_text_here();
        leaked(93);
    }
}

/* A vector of numbers that only grows. It doubles ever more rarely. */
CASE(leak_vector_doubles) {
    while (tick())
        for (int i = 0; i < 10; i++) {
            append_number_here(ticks());
            leaked(sizeof(long));
        }
}

/* A vector that doubles, and is cleared with its memory. */
CASE(vector_cleared) {
    while (tick()) {
        for (int i = 0; i < 10; i++)
            append_number_here(ticks());
        if (ticks() % 90 == 89)
            std::vector<long>().swap(numbers);
        settles_at(180);
    }
}

/* A text is put together and thrown away. */
CASE(text_cleared) {
    while (tick()) {
        append_here("a line that is added to the text\n");
        if (ticks() % 70 == 69)
            std::string().swap(text);
        settles_at(140);
    }
}

/* A map of bounded size: the smallest key is erased. */
CASE(map_bounded) {
    while (tick()) {
        insert_here(ticks());
        if (by_number.size() > 100)
            by_number.erase(by_number.begin());
        settles_at(150);
    }
}

} // namespace
