/* Stacks that were walked before. Most allocations repeat a stack, at the same place in memory: a
 * walk notes which words of the stack it went by, and where they stood. When a thread comes by with
 * the same ip and sp, and all those words are as they were, the walk would go the same way, and its
 * result is known: docs/unwinding.md.
 *
 * It is found in two steps. Many stacks begin alike (all that call operator new from one depth do),
 * so the first gives places on the stack, and what stands there leads to the second.
 *
 * Entries belong to nobody and are written without a lock. `check` covers all that decides in a
 * known stack, so one that is half of one writer and half of another fits nothing; of a start,
 * whatever is in it, nothing depends but where is searched. */

#if WALK_BY_TABLE

#define PLACE_SHIFT 55 /* above any address: a place and a word are hashed at once */
#define NOT_TO_BE_KNOWN (KNOWN_SLOTS + 1)
#define NOWHERE (~0U)
/* walk->bp_at, where the value of rbp is from, as long as nothing was found by it: */
#define BP_NOTED 0
#define BP_AT_START 1 /* else an address */

static __always_inline void never_know(struct walk *walk) {
    walk->slot_count = NOT_TO_BE_KNOWN;
}

/* A walk of which may be found out that its stack is known. */
static __always_inline void start_known(struct walk *walk) {
    walk->start = mix(walk->ip, walk->sp);
    walk->start_ip = walk->ip;
    walk->start_sp = walk->sp;
    walk->start_bp = walk->bp;
    walk->chain = mix(walk->start, walk->list_mark ^ walk->is_return_address << 1);
    walk->bp_at = BP_AT_START;
    walk->bp_counts = 0;
    walk->slot_count = 0;
    walk->slot_words = 0;
    walk->known_at = NOWHERE;
}

/* The walk goes by a word of the stack. */
static __always_inline void note_slot(struct walk *walk, u64 address, u64 word) {
    u64 offset = address - walk->start_sp, place = offset >> 3;
    u32 n = walk->slot_count;

    if (n >= KNOWN_SLOTS || place >= STACK_WINDOW_WORDS - 1 || offset & 7) {
        never_know(walk);
        return;
    }
    walk->places[n & (KNOWN_SLOTS - 1)] = place;
    walk->slot_count = n + 1;
    if (place >= walk->slot_words)
        walk->slot_words = place + 1;
    walk->chain = mix(walk->chain, word ^ place << PLACE_SHIFT);
}

/* The walk goes by rbp. Functions save and restore it also where it is but a number: only then does
 * the word matter that it was restored from. */
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

/* Have this many words from sp on in the window. */
static __always_inline int look_at(struct walk *walk, u32 words) {
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

/* A word in the window; 0 beyond what was copied. */
static __always_inline u64 word_at(struct walk *walk, u64 place) {
    u64 at = place;

    if (place * 8 >= walk->window_bytes)
        return 0;
    asm volatile(""
                 : "+r"(at)); /* else clang finds the next bound needless, and the verifier not */
    return walk->window[at & (STACK_WINDOW_WORDS - 1)];
}

/* The id of the stack, if it is known; else 0. */
static __always_inline u64 find_known(struct walk *walk) {
    struct known_start *start = start_of(walk);

    if (!start || start->ip != walk->ip || start->sp != walk->sp)
        return 0;
    if (look_at(walk, start->words))
        return 0;
    u64 where = walk->start;
    for (int i = 0; i < TELLING_PLACES; i++)
        where = mix(where, word_at(walk, start->places[i]));
    walk->known_at = where >> 32 & (KNOWN_STACKS - 1);

    struct known_stack *known = known_stacks.lookup(&walk->known_at);
    if (!known || known->ip != walk->ip || known->sp != walk->sp)
        return 0;
    u32 words = known->slot_words, count = known->slot_count;
    if (words * 8 > walk->window_bytes && look_at(walk, words))
        return 0;
    u64 chain = walk->chain, id = known->id;
#pragma clang loop unroll(disable)
    for (u32 i = 0; i < KNOWN_SLOTS; i++) {
        u32 at = i;
        asm volatile("" : "+r"(at)); /* else clang makes a loop of it whose end no verifier sees */
        if (at >= count)
            break;
        u64 place = known->places[at & (KNOWN_SLOTS - 1)];
        if (place * 8 >= walk->window_bytes)
            return 0; /* it is being written */
        chain = mix(chain, word_at(walk, place) ^ place << PLACE_SHIFT);
    }
    chain = mix(chain, known->bp_counts ? walk->bp : 0);
    return known->check == mix(chain, id) ? id : 0;
}

/* The walk went well: know its stack from now on, or, when the first of its kind has come by, where
 * to look at the next. */
static __always_inline void keep_known(struct walk *walk, u64 id) {
    struct known_start *start = start_of(walk);

    if (!start || !walk->slot_count || walk->slot_count > KNOWN_SLOTS)
        return;
    if (walk->known_at == NOWHERE) {
        start->ip = walk->start_ip;
        start->sp = walk->start_sp;
        start->words = walk->slot_words;
        /* Only words that matter may tell: the last one again where there are fewer. */
        u32 last = walk->slot_count - 1;
        for (u32 i = 0; i < TELLING_PLACES; i++) {
            u32 at = i < last ? i : last;
            asm volatile("" : "+r"(at)); /* else clang finds the next bound needless */
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
