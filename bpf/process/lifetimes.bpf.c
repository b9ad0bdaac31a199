/* How long blocks live that are released, by site. A release knows the record of the block, and
 * must not pay for a lookup in a hash map: the counts of a site are in an array, at a place that
 * its stack id says, or a few entries further on. */

#if LIFETIMES

static __always_inline struct lifetimes *lifetimes_at(u64 stack_id, u32 way) {
    u32 at = (stack_id + way) & (LIFETIME_SITES - 1);
    return lifetimes.lookup(&at);
}

/* Find an entry for a new site. Two sites that try to take the same one at once may both leave it
 * to nobody, because not all kernels have atomic operations that return a value. */
static __always_inline void begin_lifetimes(u64 stack_id) {
    if (!stack_id) /* lost stacks are no site */
        return;
#pragma clang loop unroll(disable)
    for (u32 way = 0; way < LIFETIME_WAYS; way++) {
        struct lifetimes *entry = lifetimes_at(stack_id, way);
        if (!entry)
            return;
        if (entry->claims)
            continue;
        __sync_fetch_and_add(&entry->claims, 1);
        asm volatile("" ::: "memory");
        if (entry->claims == 1) {
            entry->stack_id = stack_id;
            return;
        }
    }
}

/* The entry of a site; NULL if it has none. An entry before it may have become free since. */
static __always_inline struct lifetimes *lifetimes_of(u64 stack_id) {
    if (!stack_id)
        return 0;
#pragma clang loop unroll(disable)
    for (u32 way = 0; way < LIFETIME_WAYS; way++) {
        struct lifetimes *entry = lifetimes_at(stack_id, way);
        if (entry && entry->stack_id == stack_id)
            return entry;
    }
    return 0;
}

/* How many bits a number has, without the zeros in front of it. There are no branches, because the
 * verifier would follow each of them. Right for numbers of up to 63 bits. */
static __always_inline u32 bit_length(u64 value) {
    u32 bits = 0;

#pragma clang loop unroll(full)
    for (int shift = 5; shift >= 0; shift--) {
        u64 least = 1ULL << (1 << shift);
        u32 step = (u32)((least - 1 - value) >> 63) << shift; /* whether value >= least */
        value >>= step;
        bits += step;
    }
    return bits + (u32)value; /* what is left is 0 or 1 */
}

#if WATCH_RELEASES
/* How many releases of this site a walk of the stack of this one stands for; 0: it isn't walked.
 * The watch is written without a lock: what that changes is how many are walked, and not what they
 * stand for. */
static __always_inline u32 weight_of_release(struct lifetimes *entry) {
    u64 time_ns = bpf_ktime_get_ns();
    u32 at = entry->watched - 1;
    struct watch *watch = watches.lookup(&at);

    if (!watch || watch->site != entry->stack_id)
        return 0;
    u32 shift = watch->shift;
    u64 windows = (time_ns - watch->since_ns) >> WATCH_WINDOW_SHIFT;
    if (windows) {
        if (watch->walked < WATCH_WALKS / 2) {
            shift = shift > windows ? shift - windows : 0;
            watch->shift = shift;
        }
        watch->since_ns = time_ns;
        watch->walked = 0;
    }
    u32 stands_for = 1U << (shift & 31);
    if (bpf_get_prandom_u32() & (stands_for - 1))
        return 0;
    watch->walked++;
    if (watch->walked >= WATCH_WALKS && shift < WATCH_MOST_SHIFT) {
        watch->shift = shift + 1;
        watch->walked = 0;
    }
    return stands_for;
}
#endif

/* A block is released. Returns the entry of its site, if that is watched. */
static __always_inline struct lifetimes *count_lifetime(struct allocation *allocation) {
    struct lifetimes *entry = lifetimes_of(allocation->stack_id);

    if (!entry)
        return 0;
    /* Shorter lifetimes are not told apart, so that `at` is not negative. */
    u64 lived_ns = bpf_ktime_get_ns() - allocation->time_ns;
    u64 at = bit_length(lived_ns | 1ULL << (FIRST_LIFETIME_POWER - 1)) - FIRST_LIFETIME_POWER;
    asm volatile("" : "+r"(at));
    if (at >= LIFETIME_POWERS)
        at = LIFETIME_POWERS - 1;
    __sync_fetch_and_add(&entry->counts[at], 1);
    return entry->watched ? entry : 0;
}

#else

static __always_inline void begin_lifetimes(u64 stack_id) {}
static __always_inline struct lifetimes *count_lifetime(struct allocation *allocation) {
    return 0;
}

#endif
