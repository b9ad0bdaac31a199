"""bpf/include/ lets bcc compile and load without kernel headers, and isn't mixed with them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from leaktrace.bpf.compiler_child import find_bcc

pytestmark = pytest.mark.usefixtures("require_bpf")

# Everything our programs take from bcc: maps, a ring buffer, registers, raw tracepoints.
PROGRAM = r"""
#include <uapi/linux/ptrace.h>

struct record {
    u64 size_bytes;
    u64 time_ns;
};

BPF_HASH(records, u64, struct record, 1024);
BPF_RINGBUF_OUTPUT(events, 8);
BPF_F_TABLE("array", u32, u64, rows, 16, 1024);
BPF_PERCPU_ARRAY(scratch, struct record, 1);
BPF_STACK_TRACE(stacks, 100);

int on_entry(struct pt_regs *ctx) {
    u64 address = PT_REGS_PARM1(ctx);
    struct record record = {.size_bytes = PT_REGS_RC(ctx), .time_ns = bpf_ktime_get_ns()};
    record.size_bytes += PT_REGS_SP(ctx) + PT_REGS_IP(ctx);
    records.update(&address, &record);
    events.ringbuf_output(&record, sizeof(record), 0);
    return 0;
}

RAW_TRACEPOINT_PROBE(sched_process_exit) {
    u64 address = bpf_get_current_pid_tgid();
    records.delete(&address);
    return 0;
}
"""

# Loads the program with the bcc package in argv[1], which isn't on a virtual environment's path.
LOADER = """
import importlib.util, sys
from pathlib import Path

package = Path(sys.argv[1])
spec = importlib.util.spec_from_file_location(
    "bcc", package / "__init__.py", submodule_search_locations=[str(package)])
sys.modules["bcc"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

program = module.BPF(text=sys.stdin.read())
program.load_func("on_entry", module.BPF.KPROBE)
program.load_func("raw_tracepoint__sched_process_exit", module.BPF.RAW_TRACEPOINT)
print("loaded,", program["stacks"].max_entries, "stacks")
"""

# What a kernel build directory holds at the places where bcc looks; here it must not be read.
POISONED = [
    "linux/kconfig.h",
    "linux/types.h",
    "linux/bpf_common.h",
    "linux/version.h",
    "linux/log2.h",
    "asm/page.h",
    "asm/types.h",
    "uapi/linux/bpf.h",
    "uapi/linux/ptrace.h",
    "uapi/linux/if_ether.h",
    "uapi/linux/if_packet.h",
]


def load(namespace: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Compile and load PROGRAM in a child, started by way of the command `namespace`."""
    bcc = find_bcc()
    assert bcc is not None
    return subprocess.run(
        [*namespace, sys.executable, "-c", LOADER, str(bcc)],
        input=PROGRAM,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def fake_modules(tmp_path: Path, *directories: str) -> list[str]:
    """A command that runs another one with only these `directories` of a kernel under /lib/modules.

    In a separate mount namespace, so that the machine isn't touched.
    """
    machine = {"x86_64": "x86", "aarch64": "arm64"}[platform.machine()]
    modules = tmp_path / "modules" / platform.release()
    modules.mkdir(parents=True)
    for directory in directories:
        for include in ("include", f"arch/{machine}/include"):
            for variant in ("", "uapi", "generated", "generated/uapi"):
                for name in POISONED:
                    header = modules / directory / include / variant / name
                    header.parent.mkdir(parents=True, exist_ok=True)
                    header.write_text(f"#error {header}\n")
    if Path("/lib/modules").is_dir():
        mount = f"mount --bind {modules.parent} /lib/modules"
    else:  # /lib may be a link, and the mount point has to be made without touching the machine
        library = Path("/lib").resolve()
        layers = tmp_path / "layers"
        layers.mkdir()
        mount = textwrap.dedent(f"""\
            mount -t tmpfs layers {layers}
            mkdir {layers}/upper {layers}/work
            layers=lowerdir={library},upperdir={layers}/upper,workdir={layers}/work
            mount -t overlay -o "$layers" overlay {library}
            cp -r {modules.parent} {library}/modules
        """)
    script = tmp_path / "in_namespace.sh"
    script.write_text(f'set -e\n{mount}\ntest -d "/lib/modules/$(uname -r)"\nexec "$@"\n')
    return ["unshare", "--mount", "sh", str(script)]


@pytest.mark.parametrize("directories", [(), ("build",), ("build", "source")])
def test_loads_with_anything_under_lib_modules(
    tmp_path: Path, repository: Path, directories: tuple[str, ...]
) -> None:
    namespace = fake_modules(tmp_path, *directories)
    result = load(namespace, BCC_KERNEL_SOURCE=str(repository / "bpf"))
    assert (result.returncode, result.stderr) == (0, "")
    # roundup_pow_of_two(100)
    assert result.stdout == "loaded, 128 stacks\n"


def test_poisoned_headers_would_be_noticed(tmp_path: Path) -> None:
    """Without BCC_KERNEL_SOURCE, bcc does read the kernel's build directory."""
    result = load(fake_modules(tmp_path, "build"))
    assert result.returncode != 0
    assert "#error" in result.stderr


@pytest.mark.parametrize(
    ("target", "size_bytes", "members"),
    [
        ("x86_64-linux-gnu", 168, {"di": 112, "ax": 80, "sp": 152, "ip": 128, "bp": 32}),
        ("aarch64-linux-gnu", 272, {"regs": 0, "sp": 248, "pc": 256, "pstate": 264}),
    ],
)
def test_registers_are_where_the_abi_says(
    repository: Path,
    require_tool: Callable[[str], str],
    target: str,
    size_bytes: int,
    members: dict[str, int],
) -> None:
    """Offsets from ptrace(2)'s user_regs_struct, which has the kernel's layout."""
    clang = require_tool("clang")
    checks = [f'_Static_assert(sizeof(struct pt_regs) == {size_bytes}, "size");']
    checks += [
        f'_Static_assert(__builtin_offsetof(struct pt_regs, {member}) == {offset}, "{member}");'
        for member, offset in members.items()
    ]
    source = "#include <linux/kconfig.h>\n#include <uapi/linux/ptrace.h>\n" + "\n".join(checks)
    command = [clang, f"--target={target}", "-nostdinc", "-Werror", "-fsyntax-only", "-xc", "-"]
    result = subprocess.run(
        [*command, f"-I{repository}/bpf/include"],
        input=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
