// The forms of operator new and operator delete, called with random arguments: see by_chance.h.
// Sizes are at least 1, and multiples of the alignment, as some libraries make them.
// -DNOTHING_IMPOSSIBLE: for an allocator that aborts where it should throw.
enum { FUNCTIONS = 8 };
#include "by_chance.h"
#include <new>

static void release(struct block *slot) {
    void *block = (void *)slot->address;
    auto alignment = std::align_val_t(slot->kind & ~(uint64_t)7);
    bool is_sized = by_chance(2), is_array = slot->kind & 1, is_aligned = slot->kind & 4;
    if (block == nullptr)
        is_array ? ::operator delete[](block) : ::operator delete(block);
    else if (is_aligned && is_sized)
        is_array ? ::operator delete[](block, slot->size, alignment)
                 : ::operator delete(block, slot->size, alignment);
    else if (is_aligned)
        is_array ? ::operator delete[](block, alignment) : ::operator delete(block, alignment);
    else if (is_sized)
        is_array ? ::operator delete[](block, slot->size) : ::operator delete(block, slot->size);
    else
        is_array ? ::operator delete[](block) : ::operator delete(block);
    slot->address = 0;
}

static int takes_pages(int) {
    return 0;
}

static void *new_block(int which, size_t size, std::align_val_t alignment) {
    switch (which) {
    case 0:
        return ::operator new(size);
    case 1:
        return ::operator new[](size);
    case 2:
        return ::operator new(size, std::nothrow);
    case 3:
        return ::operator new[](size, std::nothrow);
    case 4:
        return ::operator new(size, alignment);
    case 5:
        return ::operator new[](size, alignment);
    case 6:
        return ::operator new(size, alignment, std::nothrow);
    default:
        return ::operator new[](size, alignment, std::nothrow);
    }
}

static void call_function(int which, struct block *slot) {
    size_t alignment = (size_t)16 << by_chance(by_chance(100) ? 4 : 9);
    size_t size = 1 + any_size();
    release(slot);
    if (by_chance(300) == 0)
        size = 1 + impossible_size() / 2;
    if (which >= 4)
        size = (size + alignment - 1) & ~(alignment - 1);
    try {
        slot->address = (uint64_t)new_block(which, size, std::align_val_t(alignment));
        slot->size = size;
        slot->kind = (uint64_t)which | (which >= 4 ? alignment : 0);
    } catch (const std::bad_alloc &) {
        slot->address = 0;
    }
}
