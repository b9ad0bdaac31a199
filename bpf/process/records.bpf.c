/* What is outstanding: one record per block, and the totals of each site. */

/* --- sites ----------------------------------------------------------------------------------- */

struct weighed {
    u64 bytes;
    u64 count;
};

/* Memory that is never sampled. */
#define MAPPED_MEMORY 1
#define OTHER_MEMORY 2 /* its site has no figures here: is_of_other_memory() */

/* How many bytes and allocations one allocation of this size stands for. Sampling by bytes recorded
 * it with probability p = 1 - exp(-x), x = size / SAMPLE_BYTES. So it stands for 1 / p allocations
 * and for size / p = SAMPLE_BYTES * x / (1 - exp(-x)) bytes, which a table gives, with linear
 * interpolation. */
static __always_inline struct weighed weigh(u64 size, u64 time_ns, int is_region, u32 space) {
    struct weighed result = {.bytes = size, .count = 1};
    if (space) /* never sampled */
        return result;
    if (is_region == OTHER_MEMORY) {
        struct weighed nothing = {};
        return nothing;
    }
#if THROTTLE
    struct throttle *now = this_throttle();
    if (now && now->rate > 1 && time_ns >= now->since_ns && !is_region) {
        result.bytes *= now->rate;
        result.count *= now->rate;
    }
#endif
#if SAMPLE_BYTES
    u64 scaled = size * WEIGHT_STEP, index64 = scaled / SAMPLE_BYTES;
    u32 index = index64;

    result.count = COUNT_UNIT;
    if (is_region || index64 >= WEIGHT_COUNT || !size)
        return result;
    u64 *low = sample_weights.lookup(&index);
    index++;
    u64 *high = sample_weights.lookup(&index);
    if (!low || !high)
        return result;
    u64 rest = scaled - index64 * SAMPLE_BYTES;
    u64 weight = *low + (*high - *low) * rest / SAMPLE_BYTES;
    result.bytes = SAMPLE_BYTES * weight / WEIGHT_UNIT;
    result.count = result.bytes * COUNT_UNIT / size;
#endif
    return result;
}

/* Count an allocation at its site, which is made if it is new. Returns whether there is a site. */
static __always_inline int count_allocated(struct thread *thread, u64 stack_id, u64 size,
                                           u64 time_ns, int is_region) {
    u32 space = space_of(&thread->walk);
    struct weighed weighed = weigh(size, time_ns, is_region, space);
    struct site *site = sites.lookup(&stack_id);

    if (!site) {
        if (thread->walk.is_known) { /* can't happen; thread->stack isn't this stack */
            lose(LOSS_SITES, 1);
            return 0;
        }
        if (stack_id)
            store_stack(stack_id, &thread->stack);
        struct site first = {.allocated_bytes = weighed.bytes,
                             .allocated_count = weighed.count,
                             .generation = thread->stack.generation,
                             .end = stack_id ? thread->stack.end : END_UNKNOWN,
                             .is_region = !!is_region,
                             .owner = space | thread->walk.slot << (SLOT_SHIFT - SPACE_SHIFT)};
        if (!sites.insert(&stack_id, &first)) {
            if (!is_region)
                begin_lifetimes(stack_id);
            return 1;
        }
        site = sites.lookup(&stack_id); /* another thread was first, or the map is full */
        if (!site) {
            lose(LOSS_SITES, 1);
            return 0;
        }
    }
    __sync_fetch_and_add(&site->allocated_bytes, weighed.bytes);
    __sync_fetch_and_add(&site->allocated_count, weighed.count);
    return 1;
}

static __always_inline void count_freed(u32 space, struct allocation *allocation) {
#if COUNT_FREED
    struct weighed weighed = weigh(allocation->size, allocation->time_ns, 0, space);
    u64 stack_id = allocation->stack_id;
    struct site *site = sites.lookup(&stack_id);

    if (site) {
        __sync_fetch_and_add(&site->freed_bytes, weighed.bytes);
        __sync_fetch_and_add(&site->freed_count, weighed.count);
    }
#endif
}

/* --- records --------------------------------------------------------------------------------- */

/* Whether a record was made before the last exec, so that it belongs to another image. */
static __always_inline int is_stale(struct session *now, struct allocation *allocation) {
    return allocation->time_ns < now->exec_time_ns;
}

/* Remove a block's record. Returns whether there was one of this image. */
static __always_inline int take(struct session *now, u32 space, u64 address,
                                struct allocation *allocation) {
    if (is_far(address))
        return 0;
    return remove_record(record_key(now, space, address), allocation) == 0 &&
           !is_stale(now, allocation);
}

/* An address was allocated again while it had a record. */
static __always_inline void note_forgotten(u32 space) {
#if HAS_SPACES
    struct pair_calls *calls = space ? pair_calls.lookup(&space) : 0;

    if (calls) { /* its release was not seen, or its references are counted */
        __sync_fetch_and_add(&calls->returned_again, 1);
        return;
    }
#endif
    lose(LOSS_MISSED_FREES, 1);
}

/* Store a block's record. Returns whether there was room. */
static __always_inline int put(struct session *now, u32 space, u64 address,
                               struct allocation *allocation) {
    u64 key = record_key(now, space, address);

    if (is_far(address)) {
        lose(LOSS_FAR_ADDRESSES, 1);
        return 0;
    }
    long error = allocations.insert(&key, allocation);

    if (error == -EEXIST) { /* its release was not seen, or the record is from before an exec */
        struct allocation forgotten = {};
        if (take(now, space, address, &forgotten)) {
            count_freed(space, &forgotten);
            note_forgotten(space);
        }
        error = allocations.update(&key, allocation);
    }
    return is_stored(error, allocation->size);
}
