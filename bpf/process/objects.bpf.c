/* Objects that come and go while the process runs. The dynamic loader calls an empty function,
 * which it tells debuggers of by its struct r_debug, before and after each change of its list of
 * objects (link.h; _dl_debug_state in glibc and musl). A library that is unloaded makes room, and
 * the next one may lie in its place: as soon as its code can run, addresses there mean it.
 *
 * User space is told and reads the mappings again. That takes a while, and the library may be gone
 * by then. So each change begins an epoch, of which stacks tell; what was loaded since the last
 * list of mappings is kept here for walks to go by, and its path sent to user space, to name it. */

#if WALK_BY_TABLE

#define RT_CONSISTENT 0 /* r_state */
#define RT_ADD 1
#define RT_DELETE 2
#define MOST_OBJECTS 512        /* of the loader's list; where there are more, it is crowded */
#define MOST_BYTES (4ULL << 30) /* of an object, so that no range wraps */
#define CODE_PAGE_BYTES 4096

/* Words of struct r_debug and struct link_map. */
#define R_DEBUG_MAP 1
#define R_DEBUG_STATE 3
#define LINK_ADDRESS 0
#define LINK_NAME 1
#define LINK_DYNAMIC 2
#define LINK_NEXT 3

static long (*read_user_string)(void *to, u32 size,
                                const void *from) = (void *)BPF_FUNC_probe_read_user_str;

/* Find the objects that are new on the loader's list: their places on it, to walk->window. Or
 * `mark` them all as known, but for the last one where that is being added (`but_last`). */
static __always_inline void find_loaded(struct walk *walk, struct session *now, u64 first, u32 mark,
                                        u32 but_last) {
    u32 epoch = now->epoch;

    walk->found = 0;
    walk->ip = first;
#pragma clang loop unroll(disable)
    for (int i = 0; i < MOST_OBJECTS; i++) {
        if (!walk->ip || bpf_probe_read_user(walk->saved, 32, (void *)walk->ip))
            break;
        u64 key = mix(mix(now->generation, walk->saved[LINK_ADDRESS]), walk->saved[LINK_DYNAMIC]);
        u32 *seen = loaded.lookup(&key), n = walk->found;
        if (mark) {
            if (!but_last || walk->saved[LINK_NEXT])
                loaded.update(&key, &epoch);
        } else if (seen && *seen == epoch - 1) {
            *seen = epoch;
        } else if (n < LATE_OBJECTS) {
            walk->window[n & (LATE_OBJECTS - 1)] = walk->ip;
            walk->found = n + 1;
            loaded.update(&key, &epoch);
        } else {
            now->crowded = epoch;
        }
        walk->ip = walk->saved[LINK_NEXT];
        asm volatile("" ::: "memory");
    }
    if (walk->ip)
        now->crowded = epoch; /* there is more, or it can't be read */
}

/* Of the file's first bytes, where its headers and its build-id are. unwind/fingerprint.py makes
 * the same of a file. */
static __always_inline u64 fingerprint_at(struct walk *walk, u64 address) {
    u64 *words = &walk->window[LATE_OBJECTS], hash = 1;

    if (bpf_probe_read_user(words, FINGERPRINT_WORDS * 8, (void *)address))
        return 0;
#pragma clang loop unroll(disable)
    for (int i = 0; i < FINGERPRINT_WORDS; i++)
        hash = mix(hash, words[i]);
    return hash;
}

/* What was loaded at [start, end) since the list was made is gone. walk->key is a free place then,
 * or LATE_OBJECTS. */
static __always_inline void forget_late(struct walk *walk, u32 since, u64 start, u64 end) {
    u32 free = LATE_OBJECTS;

#pragma clang loop unroll(disable)
    for (u32 i = 0; i < LATE_OBJECTS; i++) {
        walk->key = i;
        struct late_object *late = late_objects.lookup(&walk->key);
        if (!late)
            break;
        if (late->mapping.start < end && start < late->mapping.end)
            late->epoch = 0;
        u32 is_free = NOT_ABOVE(late->epoch, (u64)since);
        free ^= (free ^ i) & -is_free;
    }
    walk->key = free;
}

/* Keep a new object, at walk->key. */
static __always_inline void keep_late(struct walk *walk, struct session *now,
                                      struct load_event *load) {
    u64 fingerprint = load->fingerprint;
    struct late_object *late = late_objects.lookup(&walk->key);

    if (!late) {
        now->crowded = now->epoch;
        return;
    }
    struct unwind_mapping *known = known_objects.lookup(&fingerprint);
    if (known) {
        late->mapping = *known;
        late->mapping.start += load->event.address;
        late->mapping.end += load->event.address;
        late->mapping.bias += load->event.address;
    } else {
        late->mapping.start = load->event.address;
        late->mapping.end = load->event.address + load->event.size;
        late->mapping.page_count = 0;
    }
    late->mapping.fingerprint = load->event.stack_id;
    asm volatile("" ::: "memory");
    late->epoch = now->epoch;
}

/* What there is to tell of an object whose place on the loader's list is in walk->ip. Returns -1
 * where it can't be read. */
static __always_inline int describe(struct walk *walk, struct session *now,
                                    struct load_event *load) {
    u64 *path = (u64 *)load->path;

    if (bpf_probe_read_user(walk->saved, 32, (void *)walk->ip))
        return -1;
    u64 base = walk->saved[LINK_ADDRESS], length = walk->saved[LINK_DYNAMIC] - base;
    if (length > MOST_BYTES)
        return -1;
    u64 hash = fingerprint_at(walk, base);
    __builtin_memset(&load->event, 0, sizeof(load->event));
    load->event.time_ns = bpf_ktime_get_ns();
    load->event.address = base;
    /* The dynamic section lies behind the code. */
    load->event.size = (walk->saved[LINK_DYNAMIC] | (CODE_PAGE_BYTES - 1)) + 1 - base;
    load->fingerprint = hash;
    load->event.generation = now->generation;
    load->event.kind = EVENT_LOADED;
    load->event.epoch = now->epoch;
#pragma clang loop unroll(disable)
    for (int i = 0; i < OBJECT_PATH_BYTES / 8; i++)
        path[i] = 0;
    read_user_string(load->path, OBJECT_PATH_BYTES, (void *)walk->saved[LINK_NAME]);
#pragma clang loop unroll(disable)
    for (int i = 0; i < OBJECT_PATH_BYTES / 8; i++)
        hash = mix(hash, path[i]);
    load->event.stack_id = hash;
    return 0;
}

static __always_inline void tell_loaded(void *ctx, struct load_event *load) {
    u64 key = mix(mix(load->event.stack_id, load->event.address), load->event.generation);
    u8 yes = 1;

    if (told_objects.lookup(&key)) {
        send_region_event(ctx, &load->event);
        return;
    }
#if USE_RING_BUFFER
    long error = region_events.ringbuf_output(load, sizeof(*load), 0);
#else
    long error = region_events.perf_submit(ctx, load, sizeof(*load));
#endif
    if (error)
        lose(LOSS_REGION_EVENTS, 1);
    else
        told_objects.update(&key, &yes);
}

/* An object is new; its place on the loader's list is in walk->ip. */
static __always_inline void meet(void *ctx, struct walk *walk, struct session *now, u32 since,
                                 u32 is_first) {
    struct load_event *load = (struct load_event *)&walk->window[LATE_OBJECTS];

    if (describe(walk, now, load)) {
        now->crowded = now->epoch;
        return;
    }
    u64 base = load->event.address, end = base + load->event.size;
    struct unwind_mapping *listed = walk->mapping_count ? last_mapping(walk, end - 1) : 0;
    if (is_first && listed && listed->start < end && base < listed->end)
        return; /* it was there all along */
    forget_late(walk, since, base, end);
    keep_late(walk, now, load);
    tell_loaded(ctx, load);
}

int at_objects(struct pt_regs *ctx) {
    struct session *now = this_session();
    struct unwind_list *list = list_in_force();

    if (!now || !list || !list->loader || list->generation != now->generation)
        return 0;
    /* Not before: of an image that isn't known yet, this would be taken for its first call. */
    struct thread *thread = this_thread(ctx);
    if (!thread)
        return 0;
    struct walk *walk = &thread->walk;
    if (bpf_probe_read_user(walk->saved, 32, (void *)list->loader))
        return 0;
    u32 state = walk->saved[R_DEBUG_STATE];
    if (state == RT_DELETE)
        now->unloaded = now->epoch + 1;
    /* glibc calls before the first change, too; musl, which never unloads anything, after it. */
    u32 is_first = now->marked != now->generation + 1, is_before = state != RT_CONSISTENT;
    now->changing |= is_before;
    if (is_before && !is_first)
        return 0;
    now->marked = now->generation + 1;
    now->epoch += !is_before;
    u32 since = list->epoch;
    u64 place = list->place;
    walk->first_mapping = (u32)place;
    walk->mapping_count = place >> 32;
    find_loaded(walk, now, walk->saved[R_DEBUG_MAP], is_before, state == RT_ADD);
#pragma clang loop unroll(disable)
    for (u32 i = 0; i < LATE_OBJECTS; i++) {
        if (i >= walk->found)
            break;
        walk->ip = walk->window[i];
        meet(ctx, walk, now, since, is_first);
        asm volatile("" ::: "memory");
    }
    if (!is_before && !now->changing && !is_first && !walk->found) {
        /* Another namespace (dlmopen) has a list of its own, which is not read. */
        now->crowded = now->unloaded = now->epoch;
        report_unknown_code(ctx, list->version);
    }
    now->changing &= is_before;
    now->told = now->epoch;
    return 0;
}
#endif
