/* Helpers of both modes. */

/* include/uapi/asm-generic/errno-base.h; helpers return them negated. */
#define ENOENT 2
#define EEXIST 17

#define SIGSTOP 19

static __always_inline u64 mix(u64 hash, u64 value) {
    hash = (hash ^ value) * HASH_MULTIPLIER;
    return hash ^ (hash >> HASH_SHIFT);
}

/* Everything that can be lost has a counter: enum loss of the mode. */
BPF_ARRAY(losses, u64, LOSS_KINDS);

static __always_inline void lose(u32 kind, u64 amount) {
    u64 *counter = losses.lookup(&kind);
    if (counter)
        __sync_fetch_and_add(counter, amount);
}
