/* Objects that are loaded and unloaded while the process runs. The dynamic loader calls an empty
 * function before and after each change of its list of objects, and publishes that function for
 * debuggers in its struct r_debug (link.h; _dl_debug_state in glibc and musl). When a library is
 * unloaded, the next one may be mapped at the same addresses, and from then on addresses there mean
 * the new one.
 *
 * An event makes user space read the mappings again. That takes a while, and the library may be
 * unloaded by then. So each change begins an epoch, which stacks carry. Objects loaded since the
 * last list of mappings are kept here, for walks to use, and their paths are sent to user space,
 * which names them. */

#if WALK_BY_TABLE

#define RT_CONSISTENT 0 /* r_state */
#define RT_ADD 1
#define RT_DELETE 2
/* Of the loader's list, 512 objects are read; more are an overflow. The verifier follows each round
 * of a loop, so a program handles a part and calls the next one. With one new object in each of as
 * many parts as can be new, that makes 24 calls of the 33 that the kernel allows. */
#define OBJECTS_PER_PART 64
#define OBJECT_PARTS 8
#define MAX_OBJECT_BYTES (4ULL << 30) /* so that no range wraps */

/* What walk->change says of a change. */
#define CHANGE_IS_BEFORE 1 /* the loader is about to make it */
#define CHANGE_IS_ADDING 2 /* of an object, which may be on the list already */
#define CHANGE_IS_FIRST 4  /* of this image that was noticed */

/* Indices of words in struct r_debug and struct link_map. */
#define R_DEBUG_MAP 1
#define R_DEBUG_STATE 3
#define LINK_ADDRESS 0
#define LINK_NAME 1
#define LINK_DYNAMIC 2
#define LINK_NEXT 3

static long (*read_user_string)(void *to, u32 size,
                                const void *from) = (void *)BPF_FUNC_probe_read_user_str;

/* Look at the next objects of the loader's list, from walk->ip on. What is new goes to
 * walk->window: addresses of their struct link_map. Before the first change, all that are there are
 * known from now on, except for the last one if it is just being added. */
static __always_inline void look_at_objects(struct walk *walk, struct session *now) {
    u32 epoch = now->epoch, change = walk->change;

#pragma clang loop unroll(disable)
    for (int i = 0; i < OBJECTS_PER_PART; i++) {
        if (!walk->ip)
            return;
        if (bpf_probe_read_user(walk->saved, 32, (void *)walk->ip)) {
            now->overflow_epoch = epoch;
            walk->ip = 0;
            return;
        }
        u64 key = mix(mix(walk->hash, walk->saved[LINK_ADDRESS]), walk->saved[LINK_DYNAMIC]);
        u32 *seen = loaded.lookup(&key), n = walk->found;
        if (change & CHANGE_IS_BEFORE) {
            if (!(change & CHANGE_IS_ADDING) || walk->saved[LINK_NEXT])
                loaded.update(&key, &epoch);
        } else if (seen && *seen == epoch - 1) {
            *seen = epoch;
        } else if (n < LATE_OBJECTS) {
            walk->window[n & (LATE_OBJECTS - 1)] = walk->ip;
            walk->found = n + 1;
            loaded.update(&key, &epoch);
        } else {
            now->overflow_epoch = epoch;
        }
        walk->ip = walk->saved[LINK_NEXT];
        asm volatile("" ::: "memory");
    }
}

/* A hash of the file's first bytes, which contain its headers and usually its build ID.
 * unwind/fingerprint.py computes the same from a file. */
static __always_inline u64 fingerprint_at(struct walk *walk, u64 address) {
    u64 *words = &walk->window[LATE_OBJECTS], hash = 1;

    if (bpf_probe_read_user(words, FINGERPRINT_WORDS * 8, (void *)address))
        return 0;
#pragma clang loop unroll(disable)
    for (int i = 0; i < FINGERPRINT_WORDS; i++)
        hash = mix(hash, words[i]);
    return hash;
}

/* Drop what was loaded at [start, end) since the list was made. walk->key is then the number of a
 * free entry, or NO_ENTRY. */
static __always_inline void drop_late(struct walk *walk, u32 since, u64 start, u64 end) {
    u32 free = NO_ENTRY;

#pragma clang loop unroll(disable)
    for (u32 i = 0; i < LATE_OBJECTS; i++) {
        walk->key = walk->first_late + i;
        struct late_object *late = late_objects.lookup(&walk->key);
        if (!late)
            break;
        if (late->mapping.start < end && start < late->mapping.end)
            late->epoch = 0;
        u32 is_free = NOT_ABOVE(late->epoch, (u64)since);
        free ^= (free ^ walk->key) & -is_free;
    }
    walk->key = free;
}

/* Store a new object in entry walk->key. */
static __always_inline void store_late(struct walk *walk, struct session *now,
                                       struct load_event *load) {
    u64 fingerprint = load->fingerprint;
    struct late_object *late = late_objects.lookup(&walk->key);

    if (!late) {
        now->overflow_epoch = now->epoch;
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
        late->mapping.row_lo = TABLE_TO_COME;
        late->mapping.page_count = 0;
    }
    late->mapping.fingerprint = load->event.stack_id;
    asm volatile("" ::: "memory");
    late->epoch = now->epoch;
}

/* Describe the object whose struct link_map is at walk->ip. Returns -1 if it can't be read. */
static __always_inline int describe_object(struct walk *walk, struct session *now,
                                           struct load_event *load) {
    u64 *path = (u64 *)load->path;

    if (bpf_probe_read_user(walk->saved, 32, (void *)walk->ip))
        return -1;
    u64 base = walk->saved[LINK_ADDRESS], length = walk->saved[LINK_DYNAMIC] - base;
    if (length > MAX_OBJECT_BYTES)
        return -1;
    u64 hash = fingerprint_at(walk, base);
    __builtin_memset(&load->event, 0, sizeof(load->event));
    load->event.time_ns = bpf_ktime_get_ns();
    load->event.address = base;
    /* The dynamic section comes after the code. */
    load->event.size = (walk->saved[LINK_DYNAMIC] | (PAGE_BYTES - 1)) + 1 - base;
    load->fingerprint = hash;
    load->event.generation = now->generation;
    load->event.slot = walk->slot;
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

/* Send a new object; without its path if that was sent before. */
static __always_inline void send_loaded(void *ctx, struct load_event *load, u64 image) {
    u64 key = mix(mix(load->event.stack_id, load->event.address), image);
    u8 yes = 1;

    if (sent_objects.lookup(&key)) {
        send_event(ctx, &load->event);
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
        sent_objects.update(&key, &yes);
}

/* Handle the new object whose struct link_map is at walk->ip. */
static __always_inline void add_object(void *ctx, struct walk *walk, struct session *now) {
    struct load_event *load = (struct load_event *)&walk->window[LATE_OBJECTS];

    if (describe_object(walk, now, load)) {
        now->overflow_epoch = now->epoch;
        return;
    }
    u64 base = load->event.address, end = base + load->event.size;
    struct unwind_mapping *listed = walk->mapping_count ? last_mapping(walk, end - 1) : 0;
    if (walk->change & CHANGE_IS_FIRST && listed && listed->start < end && base < listed->end)
        return; /* it was loaded before, and is in the list of mappings */
    drop_late(walk, walk->since, base, end);
    store_late(walk, now, load);
    send_loaded(ctx, load, walk->hash);
}

/* All that can be known of a change is known. */
static __always_inline void end_change(void *ctx, struct walk *walk, struct session *now) {
    u32 is_before = walk->change & CHANGE_IS_BEFORE;
    struct unwind_list *list = list_in_force(now->slot);

    if (list && !walk->change && !now->changing && !walk->found) {
        /* The change was in another namespace (dlmopen), whose list is not read. */
        now->overflow_epoch = now->unload_epoch = now->epoch;
        report_unknown_code(ctx, now, list->version);
    }
    now->changing &= is_before;
    now->sent_epoch = now->epoch;
}

/* Let the next part of the work be done; see OBJECT_PARTS. */
static __always_inline void work_on(void *ctx, struct walk *walk, struct session *now) {
    object_parts.call(ctx, 0); /* returns only if it fails */
    now->overflow_epoch = now->epoch;
    end_change(ctx, walk, now);
}

int at_objects(struct pt_regs *ctx) {
    struct session *now = session_of_probe(ctx);
    struct unwind_list *list = now ? list_in_force(now->slot) : 0;

    if (!list || !list->loader || list->generation != now->generation)
        return 0;
    /* Only now: for an image without a list, this_thread() would announce a first call. */
    struct thread *thread = this_thread(ctx, now, HEAP_SPACE);
    if (!thread)
        return 0;
    struct walk *walk = &thread->walk;
    if (bpf_probe_read_user(walk->saved, 32, (void *)list->loader))
        return 0;
    u32 state = walk->saved[R_DEBUG_STATE];
    if (state == RT_DELETE)
        now->unload_epoch = now->epoch + 1;
    /* glibc also calls before the first change; musl, which never unloads anything, only after
     * it. */
    u32 is_first = now->marked != now->generation + 1, is_before = state != RT_CONSISTENT;
    now->changing |= is_before;
    if (is_before && !is_first)
        return 0;
    now->marked = now->generation + 1;
    now->epoch += !is_before;
    u64 place = list->place;
    walk->first_mapping = (u32)place;
    walk->mapping_count = place >> 32;
    walk->since = list->epoch;
    walk->change = (is_before ? CHANGE_IS_BEFORE : 0) | (is_first ? CHANGE_IS_FIRST : 0) |
                   (state == RT_ADD ? CHANGE_IS_ADDING : 0);
    walk->hash = image_of(now);
    walk->ip = walk->saved[R_DEBUG_MAP];
    walk->found = walk->added = 0;
    walk->parts = OBJECT_PARTS;
    work_on(ctx, walk, now);
    return 0;
}

/* A part of the work of at_objects: look at some objects, or handle a new one. */
int object_part(struct pt_regs *ctx) {
    u64 key = thread_key_in(HEAP_SPACE);
    struct thread *thread = threads.lookup(&key);
    struct session *now = thread ? session_of(thread->walk.slot) : 0;

    if (!now)
        return 0;
    struct walk *walk = &thread->walk;
    if (walk->parts) {
        look_at_objects(walk, now);
        walk->parts = walk->ip ? walk->parts - 1 : 0;
        if (!walk->parts && walk->ip)
            now->overflow_epoch = now->epoch; /* there are more */
    } else {
        u32 n = walk->added;
        walk->added = n + 1;
        walk->ip = walk->window[n & (LATE_OBJECTS - 1)];
        add_object(ctx, walk, now);
    }
    if (walk->parts || walk->added < walk->found)
        work_on(ctx, walk, now);
    else
        end_change(ctx, walk, now);
    return 0;
}
#endif
