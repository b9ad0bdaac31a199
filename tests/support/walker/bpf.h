/* What bcc gives a BPF program, for a compiler of ordinary C: bcc's macros for maps, and the
 * helpers of the kernel. It is included before the programs' own text.
 *
 * bcc rewrites `map.lookup(&key)` to a call of a helper. Here a map is a constant struct of
 * function pointers, so that the same text is valid C. */
#ifndef BPF_H
#define BPF_H

#include <uapi/linux/ptrace.h>
#include "runtime.h"

#define DEFINE_MAP(KIND, KEY, VALUE, NAME, CAPACITY)                                               \
    static struct map NAME##_map = {.name = #NAME,                                                 \
                                    .kind = (KIND),                                                \
                                    .key_bytes = sizeof(KEY),                                      \
                                    .value_bytes = sizeof(VALUE),                                  \
                                    .capacity = (CAPACITY)};                                       \
    __attribute__((constructor)) static void NAME##_register(void) {                               \
        register_map(&NAME##_map);                                                                 \
    }                                                                                              \
    static VALUE *NAME##_lookup(KEY *key) {                                                        \
        return map_lookup(&NAME##_map, key);                                                       \
    }                                                                                              \
    static long NAME##_update(KEY *key, VALUE *value) {                                            \
        return map_update(&NAME##_map, key, value, UPDATE_ANY);                                    \
    }                                                                                              \
    static long NAME##_insert(KEY *key, VALUE *value) {                                            \
        return map_update(&NAME##_map, key, value, UPDATE_NEW);                                    \
    }                                                                                              \
    static long NAME##_delete(KEY *key) {                                                          \
        return map_delete(&NAME##_map, key);                                                       \
    }                                                                                              \
    static const struct {                                                                          \
        VALUE *(*lookup)(KEY *);                                                                   \
        long (*update)(KEY *, VALUE *);                                                            \
        long (*insert)(KEY *, VALUE *);                                                            \
        long (*delete)(KEY *);                                                                     \
    } NAME = {NAME##_lookup, NAME##_update, NAME##_insert, NAME##_delete}

#define MAP_KIND(TYPE)                                                                             \
    (__builtin_strcmp(TYPE, "array") == 0  ? MAP_ARRAY                                             \
     : __builtin_strcmp(TYPE, "hash") == 0 ? MAP_HASH                                              \
                                           : MAP_LRU_HASH)

#define BPF_TABLE(TYPE, KEY, VALUE, NAME, CAPACITY)                                                \
    DEFINE_MAP(MAP_KIND(TYPE), KEY, VALUE, NAME, CAPACITY)
#define BPF_F_TABLE(TYPE, KEY, VALUE, NAME, CAPACITY, FLAGS)                                       \
    DEFINE_MAP(MAP_KIND(TYPE), KEY, VALUE, NAME, CAPACITY)
#define BPF_ARRAY(NAME, VALUE, CAPACITY) DEFINE_MAP(MAP_ARRAY, u32, VALUE, NAME, CAPACITY)
#define BPF_PERCPU_ARRAY(NAME, VALUE, CAPACITY) BPF_ARRAY(NAME, VALUE, CAPACITY) /* one CPU */

#define BPF_PROG_ARRAY(NAME, CAPACITY)                                                             \
    static struct map NAME##_map = {.name = #NAME,                                                 \
                                    .kind = MAP_PROGRAMS,                                          \
                                    .key_bytes = sizeof(u32),                                      \
                                    .value_bytes = sizeof(void *),                                 \
                                    .capacity = (CAPACITY)};                                       \
    __attribute__((constructor)) static void NAME##_register(void) {                               \
        register_map(&NAME##_map);                                                                 \
    }                                                                                              \
    static void NAME##_call(void *ctx, u32 index) {                                                \
        tail_call(&NAME##_map, ctx, index);                                                        \
    }                                                                                              \
    static const struct { void (*call)(void *, u32); } NAME = {NAME##_call}

#define DEFINE_EVENTS(NAME)                                                                        \
    static struct map NAME##_map = {.name = #NAME, .kind = MAP_EVENTS};                            \
    __attribute__((constructor)) static void NAME##_register(void) {                               \
        register_map(&NAME##_map);                                                                 \
    }                                                                                              \
    static long NAME##_output(void *data, u64 bytes, u64 flags) {                                  \
        return map_send(&NAME##_map, data, bytes);                                                 \
    }                                                                                              \
    static long NAME##_submit(void *ctx, void *data, u64 bytes) {                                  \
        return map_send(&NAME##_map, data, bytes);                                                 \
    }                                                                                              \
    static const struct {                                                                          \
        long (*ringbuf_output)(void *, u64, u64);                                                  \
        long (*perf_submit)(void *, void *, u64);                                                  \
    } NAME = {NAME##_output, NAME##_submit}

#define BPF_RINGBUF_OUTPUT(NAME, PAGES) DEFINE_EVENTS(NAME)
#define BPF_PERF_OUTPUT(NAME) DEFINE_EVENTS(NAME)

/* The text defines some helpers by number, under its own names. */
#define BPF_FUNC_probe_read_user read_user_memory
#define BPF_FUNC_probe_read_user_str read_user_text
#define BPF_FUNC_probe_read_kernel read_user_memory /* no kernel memory is mapped */

#define bpf_get_current_pid_tgid() current_thread()
#define bpf_get_attach_cookie(ctx) current_cookie()
#define bpf_ktime_get_ns() now_ns()
#define bpf_get_prandom_u32() random_number()
#define bpf_send_signal(number) send_signal(number)
#define bpf_send_signal_thread(number) send_signal(number)
#define bpf_get_current_task() 0UL
#define bpf_get_current_task_btf() ((void *)0)
#define bpf_task_pt_regs(task) 0UL
#define bpf_probe_read_kernel(to, bytes, from) read_user_memory(to, bytes, from)

#define PT_REGS_PARM1(ctx) ((ctx)->di)
#define PT_REGS_PARM2(ctx) ((ctx)->si)
#define PT_REGS_PARM3(ctx) ((ctx)->dx)
#define PT_REGS_PARM4(ctx) ((ctx)->cx)
#define PT_REGS_PARM5(ctx) ((ctx)->r8)
#define PT_REGS_PARM6(ctx) ((ctx)->r9)
#define PT_REGS_FP(ctx) ((ctx)->bp)
#define PT_REGS_RC(ctx) ((ctx)->ax)
#define PT_REGS_IP(ctx) ((ctx)->ip)
#define PT_REGS_SP(ctx) ((ctx)->sp)

struct bpf_raw_tracepoint_args {
    u64 args[8];
};

#endif
