/* Raw tracepoints. They give size and address in one event, so nothing has to be remembered between
 * an entry and a return.
 *
 * X_ARGUMENT knobs are indices in ctx->args. They differ between kernels, and come from the type
 * information of the running one (kernel/probes/tracepoints.py).
 *
 * Since Linux 6.1 the kernel skips a program that is already running on the same CPU ("bpf: Prevent
 * bpf program recursion for raw tracepoint probes"): what an interrupt frees at that moment would
 * look outstanding forever. So each tracepoint has two programs, both attached. The second one does
 * nothing, unless it finds that the first one is interrupted. */

enum event_source {
    SOURCE_kmalloc,
    SOURCE_kfree,
    SOURCE_kmem_cache_alloc,
    SOURCE_kmem_cache_free,
    SOURCE_mm_page_alloc,
    SOURCE_mm_page_free,
    SOURCE_percpu_alloc_percpu,
    SOURCE_percpu_free_percpu,
    SOURCE_alloc_vmap_area,
    SOURCE_free_vmap_area_noflush,
    SOURCES,
};
BPF_PERCPU_ARRAY(running, u32, SOURCES);

static __always_inline void mark_running(u32 source, u32 value) {
    u32 *mark = running.lookup(&source);

    asm volatile("" ::: "memory");
    if (mark)
        *mark = value;
    asm volatile("" ::: "memory");
}

static __always_inline int is_running(u32 source) {
    u32 *mark = running.lookup(&source);

    return mark && *mark;
}

/* Before Linux 6.1 the first program nests in itself, and then leaves no mark for the second. */
#define TWO_PROGRAMS(event)                                                                        \
    int at_##event(struct bpf_raw_tracepoint_args *ctx) {                                          \
        mark_running(SOURCE_##event, 1);                                                           \
        on_##event(ctx);                                                                           \
        mark_running(SOURCE_##event, 0);                                                           \
        return 0;                                                                                  \
    }                                                                                              \
    int again_##event(struct bpf_raw_tracepoint_args *ctx) {                                       \
        if (is_running(SOURCE_##event)) {                                                          \
            lose(LOSS_MADE_UP_FOR, 1);                                                             \
            on_##event(ctx);                                                                       \
        }                                                                                          \
        return 0;                                                                                  \
    }

#ifdef KMALLOC_PTR

static __always_inline void on_kmalloc(struct bpf_raw_tracepoint_args *ctx) {
    struct request request = {.address = ctx->args[KMALLOC_PTR],
                              .size = ctx->args[KMALLOC_BYTES_ALLOC],
                              .requested = ctx->args[KMALLOC_BYTES_REQ],
                              .call_site = ctx->args[0],
                              .section = SECTION_SLAB,
                              .function = KERNEL_KMALLOC,
                              .is_kmalloc = 1};
    if (is_memory(request.address))
        record(ctx, &request);
}
TWO_PROGRAMS(kmalloc)

static __always_inline void on_kfree(struct bpf_raw_tracepoint_args *ctx) {
    release(ctx, SECTION_SLAB, KERNEL_KFREE, ctx->args[1]);
}
TWO_PROGRAMS(kfree)
#endif

#ifdef KMEM_CACHE_ALLOC_PTR
static __always_inline void on_kmem_cache_alloc(struct bpf_raw_tracepoint_args *ctx) {
    struct request request = {.address = ctx->args[KMEM_CACHE_ALLOC_PTR],
                              .call_site = ctx->args[0],
                              .section = SECTION_SLAB,
                              .function = KERNEL_KMEM_CACHE_ALLOC};
    if (!is_memory(request.address))
        return;
#ifdef KMEM_CACHE_ALLOC_CACHE
    request.cache = ctx->args[KMEM_CACHE_ALLOC_CACHE];
#endif
#ifdef KMEM_CACHE_ALLOC_BYTES_REQ
    request.requested = ctx->args[KMEM_CACHE_ALLOC_BYTES_REQ];
    request.size = ctx->args[KMEM_CACHE_ALLOC_BYTES_ALLOC];
#else
    request.requested = read_u32(request.cache + CACHE_OBJECT_SIZE_OFFSET);
    request.size = read_u32(request.cache + CACHE_SIZE_OFFSET);
#endif
    record(ctx, &request);
}
TWO_PROGRAMS(kmem_cache_alloc)

static __always_inline void on_kmem_cache_free(struct bpf_raw_tracepoint_args *ctx) {
    release(ctx, SECTION_SLAB, KERNEL_KMEM_CACHE_FREE, ctx->args[1]);
}
TWO_PROGRAMS(kmem_cache_free)
#endif

#ifdef MM_PAGE_ALLOC_PTR
/* A block of pages is identified by its first struct page, also if it is split later. */
static __always_inline void on_mm_page_alloc(struct bpf_raw_tracepoint_args *ctx) {
    u64 size = PAGE_BYTES << (ctx->args[MM_PAGE_ALLOC_ORDER] & 31);
    struct request request = {.address = ctx->args[MM_PAGE_ALLOC_PTR],
                              .size = size,
                              .requested = size,
                              .section = SECTION_PAGES,
                              .function = KERNEL_PAGE_ALLOC};
    if (is_memory(request.address))
        record(ctx, &request);
}
TWO_PROGRAMS(mm_page_alloc)

static __always_inline void on_mm_page_free(struct bpf_raw_tracepoint_args *ctx) {
    release(ctx, SECTION_PAGES, KERNEL_PAGE_FREE, ctx->args[0]);
}
TWO_PROGRAMS(mm_page_free)
#endif

#ifdef PERCPU_ALLOC_PERCPU_PTR
static __always_inline void on_percpu_alloc_percpu(struct bpf_raw_tracepoint_args *ctx) {
    u64 size = ctx->args[PERCPU_ALLOC_PERCPU_BYTES_REQ] * POSSIBLE_CPUS;
    struct request request = {.address = ctx->args[PERCPU_ALLOC_PERCPU_PTR],
                              .size = size,
                              .requested = size,
                              .section = SECTION_PERCPU,
                              .function = KERNEL_PERCPU_ALLOC};
#ifdef PERCPU_ALLOC_PERCPU_BYTES_ALLOC
    request.size = ctx->args[PERCPU_ALLOC_PERCPU_BYTES_ALLOC];
#endif
#ifdef PERCPU_ALLOC_PERCPU_CALL_SITE
    request.call_site = ctx->args[PERCPU_ALLOC_PERCPU_CALL_SITE];
#endif
    if (is_memory(request.address))
        record(ctx, &request);
}
TWO_PROGRAMS(percpu_alloc_percpu)

static __always_inline void on_percpu_free_percpu(struct bpf_raw_tracepoint_args *ctx) {
    release(ctx, SECTION_PERCPU, KERNEL_PERCPU_FREE, ctx->args[PERCPU_FREE_PERCPU_PTR]);
}
TWO_PROGRAMS(percpu_free_percpu)
#endif

#ifdef ALLOC_VMAP_AREA_PTR
/* Address ranges of vmalloc (with its guard page), vmap and ioremap. */
static __always_inline void on_alloc_vmap_area(struct bpf_raw_tracepoint_args *ctx) {
    struct request request = {.address = ctx->args[ALLOC_VMAP_AREA_PTR],
                              .size = ctx->args[ALLOC_VMAP_AREA_BYTES_ALLOC],
                              .requested = ctx->args[ALLOC_VMAP_AREA_BYTES_ALLOC],
                              .section = SECTION_VMALLOC,
                              .function = KERNEL_VMALLOC};
    if (!(u32)ctx->args[ALLOC_VMAP_AREA_FAILED] && is_memory(request.address))
        record(ctx, &request);
}
TWO_PROGRAMS(alloc_vmap_area)

static __always_inline void on_free_vmap_area_noflush(struct bpf_raw_tracepoint_args *ctx) {
    release(ctx, SECTION_VMALLOC, KERNEL_VFREE, ctx->args[0]);
}
TWO_PROGRAMS(free_vmap_area_noflush)
#endif
