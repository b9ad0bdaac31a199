"""A tracker like leaktrace's, with the kernel's own stacks, for comparison:

    python run_stackid.py PID

Sizes by thread, records by address, counters by stack, as any tracker of allocations keeps them;
stacks by bpf_get_stackid, which follows frame pointers. The probes are where leaktrace has its
own. Prints "armed" when they are attached, and detaches them when its input ends.
"""

from __future__ import annotations

import os
import sys

from leaktrace.bpf import links
from leaktrace.bpf.compiler_child import import_bcc
from leaktrace.bpf.sources import source_directory
from leaktrace.options import ObjectChoice
from leaktrace.process.probes.object_plan import Way
from leaktrace.process.probes.planner import Planner

SOURCE = r"""
#include <uapi/linux/ptrace.h>

struct record { u64 size; u64 time_ns; int stack_id; };
struct site { u64 bytes; u64 count; u64 freed_bytes; u64 freed_count; };

BPF_F_TABLE("hash", u64, u64, sizes, 16384, 1);
BPF_F_TABLE("hash", u64, struct record, records, 1000000, 1);
BPF_F_TABLE("hash", u32, struct site, sites, 131072, 1);
BPF_STACK_TRACE(stacks, 131072);

int enter(struct pt_regs *ctx) {
    u64 thread = bpf_get_current_pid_tgid(), size = PT_REGS_PARM1(ctx);
    sizes.update(&thread, &size);
    return 0;
}

int leave(struct pt_regs *ctx) {
    u64 thread = bpf_get_current_pid_tgid(), address = PT_REGS_RC(ctx);
    u64 *size = sizes.lookup(&thread);
    if (!size || !address)
        return 0;
    struct record record = {.size = *size, .time_ns = bpf_ktime_get_ns()};
    sizes.delete(&thread);
    record.stack_id = stacks.get_stackid(ctx, BPF_F_USER_STACK);
    records.update(&address, &record);
    u32 stack_id = record.stack_id;
    struct site *site = sites.lookup(&stack_id);
    if (site) {
        __sync_fetch_and_add(&site->bytes, record.size);
        __sync_fetch_and_add(&site->count, 1);
    } else {
        struct site first = {.bytes = record.size, .count = 1};
        sites.insert(&stack_id, &first);
    }
    return 0;
}

int release(struct pt_regs *ctx) {
    u64 address = PT_REGS_PARM1(ctx);
    struct record *found = records.lookup(&address);
    if (!found)
        return 0;
    struct record record = *found;
    records.delete(&address);
    u32 stack_id = record.stack_id;
    struct site *site = sites.lookup(&stack_id);
    if (site) {
        __sync_fetch_and_add(&site->freed_bytes, record.size);
        __sync_fetch_and_add(&site->freed_count, 1);
    }
    return 0;
}
"""


def main() -> None:
    pid = int(sys.argv[1])
    os.environ["BCC_KERNEL_SOURCE"] = str(source_directory())
    bcc = import_bcc()
    loaded = bcc.BPF(text=SOURCE)
    together = links.has_uprobe_multi()
    kind = links.UprobeLinks.TOGETHER.attach_type if together else -1

    def attach(function: str, path: str, offset: int, *, is_return: bool = False) -> None:
        program = loaded.load_func(function, bcc.BPF.KPROBE, None, kind).fd
        if together:
            links.attach_uprobes(
                program,
                path,
                [offset],
                [0],
                pid=pid,
                is_return=is_return,
            )
        else:
            links.attach_uprobe_event(program, path, offset, 0, pid=pid, is_return=is_return)

    for plan in Planner(ObjectChoice(), way=Way.RETURNS).plan_process(pid):
        for probe in plan.probes:
            if probe.hook.symbol == "malloc":
                attach("leave", plan.attach_path, probe.offset, is_return=True)
                attach("enter", plan.attach_path, probe.offset)
            if probe.hook.symbol == "free":
                attach("release", plan.attach_path, probe.offset)
    print("armed", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
