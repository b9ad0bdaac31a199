/* What both modes do with their maps of records and stacks. The mode defines the types of these
 * maps' values, record_type and stack_type. */

/* Move a record out of the map. The value is copied first, because the delete removes it.
 * Returns 0 or a negated errno: ENOENT where there is no record, or another CPU was first. */
static __always_inline long remove_record(u64 key, record_type *record) {
    record_type *found = allocations.lookup(&key);

    if (!found)
        return -ENOENT;
    *record = *found;
    return allocations.delete(&key);
}

/* Whether a record of this size was stored, by what the map returned. If not, it is a loss. */
static __always_inline int is_stored(long error, u64 size) {
    if (error) {
        lose(LOSS_ALLOCATIONS, 1);
        lose(LOSS_ALLOCATION_BYTES, size);
    }
    return error == 0;
}

static __always_inline void store_stack(u64 stack_id, stack_type *stack) {
    long error = stacks.insert(&stack_id, stack);

    if (error && error != -EEXIST) /* EEXIST: another CPU was first */
        lose(LOSS_STACKS, 1);
}
