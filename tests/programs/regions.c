/* Regions of mmap unmapped in part: head, tail, middle, across neighbours, replaced, grown, moved.
 * (memleak drops a whole region when a part of it is unmapped.) */
#include "scenario.h"
#include <sys/mman.h>

#define PAGE 4096u
#define PLAIN (MAP_PRIVATE | MAP_ANONYMOUS)

static char *map_at(void *address, size_t pages, int flags) {
    char *region = mmap(address, pages * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (region == MAP_FAILED || (address != NULL && region != address))
        _exit(72);
    KEEP(region);
    return region;
}

static char *map(size_t pages) {
    return map_at(NULL, pages, PLAIN);
}

static void unmap(char *address, size_t pages) {
    if (munmap(address, pages * PAGE) != 0)
        _exit(74);
}

/* An address range that is free, found by mapping and unmapping it. */
static char *free_range(size_t pages) {
    char *range = map(pages);
    unmap(range, pages);
    return range;
}

static char *remap(char *from, size_t pages, size_t new_pages, int flags, char *to) {
    char *moved = mremap(from, pages * PAGE, new_pages * PAGE, flags, to);
    if (moved == MAP_FAILED)
        _exit(75);
    KEEP(moved);
    return moved;
}

SCENARIO scenario_unmapped_whole(void) {
    unmap(map(4), 4);
}

SCENARIO scenario_unmapped_head(void) {
    unmap(map(8), 3);
}

SCENARIO scenario_unmapped_tail(void) {
    unmap(map(8) + 6 * PAGE, 2);
}

SCENARIO scenario_unmapped_middle(void) {
    unmap(map(8) + 3 * PAGE, 2);
}

SCENARIO scenario_unmapped_in_two_steps(void) {
    char *region = map(8);
    unmap(region, 4);
    unmap(region + 4 * PAGE, 4);
}

/* A length that is no multiple of the page size still releases the whole last page. */
SCENARIO scenario_unmapped_odd_length(void) {
    char *region = map(8);
    if (munmap(region, PAGE + 1) != 0)
        _exit(74);
}

/* Three neighbours of four pages; pages 2 to 9 go: what stays is the ends of the outer two. */
SCENARIO scenario_unmapped_across(void) {
    char *range = free_range(12);
    for (size_t i = 0; i < 3; i++)
        map_at(range + i * 4 * PAGE, 4, PLAIN | MAP_FIXED);
    unmap(range + 2 * PAGE, 8);
}

/* A new neighbour right after an older region is not part of it. */
SCENARIO scenario_neighbours(void) {
    char *range = free_range(8);
    map_at(range, 4, PLAIN | MAP_FIXED);
    map_at(range + 4 * PAGE, 4, PLAIN | MAP_FIXED);
    unmap(range, 4);
}

SCENARIO scenario_replaced_whole(void) {
    map_at(map(4), 4, PLAIN | MAP_FIXED);
}

SCENARIO scenario_replaced_inside(void) {
    map_at(map(8) + 3 * PAGE, 2, PLAIN | MAP_FIXED);
}

SCENARIO scenario_remap_grows(void) {
    char *range = free_range(8);
    map_at(range, 4, PLAIN | MAP_FIXED);
    remap(range, 4, 8, 0, NULL);
}

SCENARIO scenario_remap_shrinks(void) {
    remap(map(8), 8, 3, 0, NULL);
}

SCENARIO scenario_remap_moves(void) {
    char *from = map(16);
    unmap(from + 8 * PAGE, 8);
    remap(from, 8, 8, MREMAP_MAYMOVE | MREMAP_FIXED, from + 8 * PAGE);
}

SCENARIO scenario_remap_onto_another(void) {
    char *from = map(4);
    char *onto = map(4);
    remap(from, 4, 4, MREMAP_MAYMOVE | MREMAP_FIXED, onto);
}

SCENARIO scenario_remap_part(void) {
    char *range = free_range(20);
    map_at(range, 8, PLAIN | MAP_FIXED);
    remap(range, 4, 4, MREMAP_MAYMOVE | MREMAP_FIXED, range + 16 * PAGE);
}

/* The old place stays mapped (Linux 5.7). */
SCENARIO scenario_remap_keeps_old(void) {
    char *range = free_range(12);
    map_at(range, 4, PLAIN | MAP_FIXED);
    remap(range, 4, 4, MREMAP_MAYMOVE | MREMAP_FIXED | 4 /* MREMAP_DONTUNMAP */, range + 8 * PAGE);
}

/* An old size of 0 maps a shared region a second time. */
SCENARIO scenario_remap_duplicates(void) {
    char *region = map_at(NULL, 4, MAP_SHARED | MAP_ANONYMOUS);
    remap(region, 0, 4, MREMAP_MAYMOVE, NULL);
}

int main(void) {
    await_go();
    scenario_unmapped_whole();
    scenario_unmapped_head();
    scenario_unmapped_tail();
    scenario_unmapped_middle();
    scenario_unmapped_in_two_steps();
    scenario_unmapped_odd_length();
    scenario_unmapped_across();
    scenario_neighbours();
    scenario_replaced_whole();
    scenario_replaced_inside();
    scenario_remap_grows();
    scenario_remap_shrinks();
    scenario_remap_moves();
    scenario_remap_onto_another();
    scenario_remap_part();
    scenario_remap_keeps_old();
    scenario_remap_duplicates();
    done();
    return 0;
}
