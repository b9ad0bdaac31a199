/* Find the row of an unwind table that is in force at a pc: first the mapping that holds the pc,
 * then, by the index of its object's pages, the row. docs/unwinding.md explains the tables. */

#if WALK_BY_TABLE

#define MAPPING_SEARCH_STEPS 12
#define ROW_SEARCH_STEPS 9
_Static_assert(1 << MAPPING_SEARCH_STEPS >= MAX_LISTED_MAPPINGS, "enough steps for a whole list");
_Static_assert(1 << ROW_SEARCH_STEPS > 1 << CODE_PAGE_SHIFT, "enough steps for a page, and a row");

/* a <= b for a, b < 2^63, without a branch, which would double the verifier's states */
#define NOT_ABOVE(a, b) ((u32)(((u64)(a) - (u64)(b)-1) >> 63))

/* The last mapping of the list that starts at or below pc, or the first one; walk->key is its
 * number. */
static __always_inline struct unwind_mapping *last_mapping(struct walk *walk, u64 pc) {
    u32 base, count, half;
    struct unwind_mapping *mapping;

    base = walk->first_mapping;
    count = walk->mapping_count;
#pragma clang loop unroll(disable)
    for (int i = 0; i < MAPPING_SEARCH_STEPS; i++) {
        if (count <= 1)
            break;
        half = count >> 1;
        walk->key = base + half;
        mapping = unwind_mappings.lookup(&walk->key);
        if (!mapping)
            return 0;
        base += half & -NOT_ABOVE(mapping->start, pc);
        count -= half;
    }
    walk->key = base;
    return unwind_mappings.lookup(&walk->key);
}

/* The object that holds pc, if it was loaded after the list was made. */
static __always_inline struct unwind_mapping *find_late(struct walk *walk, u64 pc) {
    struct late_object *late;
    u32 found = NO_ENTRY;

#pragma clang loop unroll(disable)
    for (u32 i = 0; i < LATE_OBJECTS; i++) { /* no branches that the verifier could see */
        walk->key = walk->first_late + i;
        late = late_objects.lookup(&walk->key);
        if (!late)
            return 0;
        u32 holds = NOT_ABOVE(late->mapping.start, pc) & NOT_ABOVE(pc + 1, late->mapping.end) &
                    NOT_ABOVE((u64)walk->late_since + 1, late->epoch);
        found ^= (found ^ walk->key) & -holds;
    }
    walk->key = found;
    late = late_objects.lookup(&walk->key);
    return late ? &late->mapping : 0;
}

/* Find the mapping that holds pc. */
static __always_inline struct unwind_mapping *find_mapping(struct walk *walk, u64 pc) {
    struct unwind_mapping *mapping;

    if (walk->late_since) {
        mapping = find_late(walk, pc);
        if (mapping)
            return mapping;
    }
    walk->key = walk->mapping;
    mapping = unwind_mappings.lookup(&walk->key);
    if (!mapping)
        return 0;
    if (pc >= mapping->start && pc < mapping->end)
        return mapping;
    mapping = last_mapping(walk, pc);
    if (!mapping || pc < mapping->start || pc >= mapping->end)
        return 0;
    walk->mapping = walk->key;
    return mapping;
}

/* Search the tables for the row in force at pc; put it, without its own pc, in walk->row. */
static __always_inline int search_row(struct walk *walk, u64 pc) {
    struct unwind_mapping *mapping = find_mapping(walk, pc);

    if (!mapping || !walk->mapping_count)
        return WALK_NO_MAPPING;
    u32 rel = pc - mapping->bias, page = rel >> CODE_PAGE_SHIFT;
    if (page >= mapping->page_count)
        return mapping->page_count || mapping->row_lo != TABLE_TO_COME ? WALK_NO_ROW : WALK_TO_COME;
    walk->key = mapping->page_lo + page;
    u32 *first = unwind_pages.lookup(&walk->key);
    walk->key++;
    u32 *next = unwind_pages.lookup(&walk->key);
    if (!first || !next)
        return WALK_NO_ROW;
    /* The row before the page's first may extend into the page. */
    u32 base = *first - 1, count = *next - base, half;
    if (*first <= mapping->row_lo) {
        base = mapping->row_lo;
        count--;
    }
    u64 *row;
#pragma clang loop unroll(disable)
    for (int i = 0; i < ROW_SEARCH_STEPS; i++) { /* the last row that starts at or below rel */
        if (count <= 1)
            break;
        half = count >> 1;
        walk->key = base + half;
        row = unwind_rows.lookup(&walk->key);
        if (!row)
            return WALK_NO_ROW;
        base += half & -NOT_ABOVE(*row >> ROW_PC_SHIFT, rel);
        count -= half;
    }
    walk->key = base;
    row = unwind_rows.lookup(&walk->key);
    if (!row || *row >> ROW_PC_SHIFT > rel || !(u32)*row) /* all zeroes: no FDE covers it */
        return WALK_NO_ROW;
    walk->row = *row;
    return WALK_GOES_ON;
}

/* The same, first among the rows found recently. */
static __always_inline int find_row(struct walk *walk, u64 pc) {
    u64 mark = pc ^ walk->list_mark;

    walk->key = (mark * HASH_MULTIPLIER) >> 32 & (RECENT_ROWS - 1);
    struct recent_row *recent = recent_rows.lookup(&walk->key);
    if (!recent)
        return WALK_NO_ROW;
    u64 known = recent->row;
    if ((recent->check ^ known * HASH_MULTIPLIER) == mark) {
        walk->row = known;
        return WALK_GOES_ON;
    }
    int result = search_row(walk, pc);
    if (!result) {
        u64 row = walk->row;
        recent->row = row;
        recent->check = mark ^ row * HASH_MULTIPLIER;
    }
    return result;
}

#endif
