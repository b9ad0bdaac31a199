/* A cache of stacks that were walked before. Most allocations repeat a stack at the same stack
 * address. So a walk notes which words of the stack it depended on, and where they were. If a
 * thread comes with the same ip and sp, and all those words are unchanged, a walk would give the
 * same result: docs/unwinding.md.
 *
 * The lookup has two steps. Many stacks have the same start (all that call operator new at one
 * depth), so the first step gives a few stack offsets, and the words there lead to the second.
 *
 * No thread owns an entry, and entries are written without a lock. `check` covers everything that
 * matters in a known_stack, so an entry that two writers wrote at once matches nothing. A
 * known_start only says where to look, so its contents need not be right. */

#if WALK_BY_TABLE

#define PLACE_SHIFT 55 /* above any address: an offset and a word are hashed together */
#define NOT_CACHEABLE (KNOWN_SLOTS + 1)
#define NO_ENTRY (~0U)
/* walk->bp_at: where the value of rbp comes from, as long as no frame depended on it; an address
 * or one of these. */
#define BP_NOTED 0
#define BP_AT_START 1

static __always_inline void do_not_cache(struct walk *walk) {
    walk->slot_count = NOT_CACHEABLE;
}

/* Prepare a walk whose stack may be in the cache. */
static __always_inline void start_cacheable(struct walk *walk) {
    walk->start = mix(walk->ip | (u64)walk->slot << SLOT_SHIFT, walk->sp);
    walk->start_ip = walk->ip;
    walk->start_sp = walk->sp;
    walk->start_bp = walk->bp;
    walk->chain =
        mix(walk->start, walk->list_mark ^ walk->is_return_address << 1 ^ (u64)space_of(walk) << 2);
    walk->bp_at = BP_AT_START;
    walk->bp_counts = 0;
    walk->slot_count = 0;
    walk->slot_words = 0;
    walk->known_at = NO_ENTRY;
}

/* The walk depends on a word of the stack. */
static __always_inline void note_slot(struct walk *walk, u64 address, u64 word) {
    u64 offset = address - walk->start_sp, place = offset >> 3;
    u32 n = walk->slot_count;

    if (n >= KNOWN_SLOTS || place >= STACK_WINDOW_WORDS - 1 || offset & 7) {
        do_not_cache(walk);
        return;
    }
    walk->places[n & (KNOWN_SLOTS - 1)] = place;
    walk->slot_count = n + 1;
    if (place >= walk->slot_words)
        walk->slot_words = place + 1;
    walk->chain = mix(walk->chain, word ^ place << PLACE_SHIFT);
}

/* The walk depends on rbp. Functions also save and restore rbp when it holds any other value: only
 * when a frame is found by it does the word matter that it was restored from. */
static __always_inline void note_bp(struct walk *walk) {
    u64 at = walk->bp_at;

    walk->bp_at = BP_NOTED;
    if (at == BP_AT_START)
        walk->bp_counts = 1;
    else if (at != BP_NOTED)
        note_slot(walk, at, walk->bp);
}

static __always_inline struct known_start *start_of(struct walk *walk) {
    u32 at = walk->start >> 32 & (KNOWN_STARTS - 1);
    return known_starts.lookup(&at);
}

/* Copy this many words of the stack, from sp on, to the window. */
static __always_inline int copy_window(struct walk *walk, u32 words) {
    u32 bytes = words * 8 & (STACK_WINDOW_WORDS * 8 - 1);

    walk->window_start = ~0ULL;
    asm volatile("" : "+r"(bytes));
    if (bytes < 8)
        return -1; /* the start is being written */
    if (bpf_probe_read_user(walk->window, bytes & (STACK_WINDOW_WORDS * 8 - 1),
                            (void *)walk->start_sp))
        return -1;
    walk->window_start = walk->start_sp;
    walk->window_bytes = bytes;
    return 0;
}

/* A word of the window; 0 beyond what was copied. */
static __always_inline u64 word_at(struct walk *walk, u64 place) {
    u64 at = place;

    if (place * 8 >= walk->window_bytes)
        return 0;
    /* Otherwise clang drops the next bound as redundant, which the verifier needs. */
    asm volatile("" : "+r"(at));
    return walk->window[at & (STACK_WINDOW_WORDS - 1)];
}

/* The id of the stack, if it is in the cache; else 0. */
static __always_inline u64 find_known(struct walk *walk) {
    struct known_start *start = start_of(walk);

    if (!start || start->ip != walk->ip || start->sp != walk->sp)
        return 0;
    if (copy_window(walk, start->words))
        return 0;
    u64 where = walk->start;
    for (int i = 0; i < SELECTOR_SLOTS; i++)
        where = mix(where, word_at(walk, start->places[i]));
    walk->known_at = where >> 32 & (KNOWN_STACKS - 1);

    struct known_stack *known = known_stacks.lookup(&walk->known_at);
    if (!known || known->ip != walk->ip || known->sp != walk->sp)
        return 0;
    u32 words = known->slot_words, count = known->slot_count;
    if (words * 8 > walk->window_bytes && copy_window(walk, words))
        return 0;
    u64 chain = walk->chain, id = known->id;
#pragma clang loop unroll(disable)
    for (u32 i = 0; i < KNOWN_SLOTS; i++) {
        u32 at = i;
        /* Otherwise clang makes a loop of it whose end the verifier can't see. */
        asm volatile("" : "+r"(at));
        if (at >= count)
            break;
        u64 place = known->places[at & (KNOWN_SLOTS - 1)];
        if (place * 8 >= walk->window_bytes)
            return 0; /* the entry is being written */
        chain = mix(chain, word_at(walk, place) ^ place << PLACE_SHIFT);
    }
    chain = mix(chain, known->bp_counts ? walk->bp : 0);
    return known->check == mix(chain, id) ? id : 0;
}

/* The walk was complete: cache its stack. The first walk with this start only writes the start. */
static __always_inline void keep_known(struct walk *walk, u64 id) {
    struct known_start *start = start_of(walk);

    if (!start || !walk->slot_count || walk->slot_count > KNOWN_SLOTS)
        return;
    if (walk->known_at == NO_ENTRY) {
        start->ip = walk->start_ip;
        start->sp = walk->start_sp;
        start->words = walk->slot_words;
        /* Only words that walks depend on may select: where there are fewer, the last one again. */
        u32 last = walk->slot_count - 1;
        for (u32 i = 0; i < SELECTOR_SLOTS; i++) {
            u32 at = i < last ? i : last;
            asm volatile("" : "+r"(at)); /* as in word_at */
            start->places[i] = walk->places[at & (KNOWN_SLOTS - 1)];
        }
        return;
    }
    if (start->words < walk->slot_words)
        start->words = walk->slot_words;
    struct known_stack *known = known_stacks.lookup(&walk->known_at);
    if (!known)
        return;
    known->check = 0;
    known->ip = walk->start_ip;
    known->sp = walk->start_sp;
    known->id = id;
    known->slot_count = walk->slot_count;
    known->slot_words = walk->slot_words;
    known->bp_counts = walk->bp_counts;
    __builtin_memcpy(known->places, walk->places, sizeof(known->places));
    known->check = mix(mix(walk->chain, walk->bp_counts ? walk->start_bp : 0), id);
}

#endif
