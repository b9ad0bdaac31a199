/* Helpers of both modes. */

#define SPREAD 0x9E3779B97F4A7C15ULL /* 2^64 divided by the golden ratio */

static __always_inline u64 mix(u64 hash, u64 value) {
    hash = (hash ^ value) * SPREAD;
    return hash ^ (hash >> 29);
}

/* Everything that can be lost has a counter: `enum loss` of the mode. */
BPF_ARRAY(losses, u64, LOSS_KINDS);

static __always_inline void lose(u32 kind, u64 amount) {
    u64 *counter = losses.lookup(&kind);
    if (counter)
        __sync_fetch_and_add(counter, amount);
}
