"""The probes of the kernel's allocators, on kernels of several years."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from leaktrace.abi.kernel import Section
from leaktrace.bpf import links
from leaktrace.bpf.btf import KernelTypes
from leaktrace.errors import EnvironmentUnfitError
from leaktrace.kernel.probes import plan as kernel_plan
from leaktrace.kernel.probes.functions import FUNCTIONS
from leaktrace.kernel.probes.plan import plan_kernel
from leaktrace.kernel.probes.tracepoints import TRACEPOINTS
from leaktrace.options import KernelProbes, KernelTarget
from leaktrace.symbols.kallsyms import Kallsyms

# The arguments of include/trace/events/kmem.h, percpu.h and vmalloc.h, by the version they came in.
CALL_SITE, PTR, SIZE, CACHE, GFP = "long unsigned int", "void *", "size_t", "kmem_cache *", "gfp_t"
ARGUMENTS = {
    "5.10": {
        "kmalloc": (CALL_SITE, PTR, SIZE, SIZE, GFP),
        "kmalloc_node": (CALL_SITE, PTR, SIZE, SIZE, GFP, "int"),
        "kmem_cache_alloc": (CALL_SITE, PTR, SIZE, SIZE, GFP),
        "kmem_cache_alloc_node": (CALL_SITE, PTR, SIZE, SIZE, GFP, "int"),
        "kfree": (CALL_SITE, PTR),
        "kmem_cache_free": (CALL_SITE, PTR),
        "mm_page_alloc": ("page *", "unsigned int", GFP, "int"),
        "mm_page_free": ("page *", "unsigned int"),
        "percpu_alloc_percpu": ("bool", "bool", SIZE, SIZE, PTR, "int", PTR),
        "percpu_free_percpu": (PTR, "int", PTR),
    },
    "5.19": {
        "kmalloc": (CALL_SITE, PTR, CACHE, SIZE, SIZE, GFP),
        "kmalloc_node": (CALL_SITE, PTR, CACHE, SIZE, SIZE, GFP, "int"),
        "kmem_cache_alloc": (CALL_SITE, PTR, CACHE, SIZE, SIZE, GFP),
        "kmem_cache_alloc_node": (CALL_SITE, PTR, CACHE, SIZE, SIZE, GFP, "int"),
        "kfree": (CALL_SITE, PTR),
        "kmem_cache_free": (CALL_SITE, PTR, "char *"),
    },
    "6.1": {
        "kmalloc": (CALL_SITE, PTR, SIZE, SIZE, GFP, "int"),
        "kmem_cache_alloc": (CALL_SITE, PTR, CACHE, GFP, "int"),
        "kfree": (CALL_SITE, PTR),
        "kmem_cache_free": (CALL_SITE, PTR, CACHE),
        "percpu_alloc_percpu": (CALL_SITE, "bool", "bool", SIZE, SIZE, PTR, "int", PTR, SIZE, GFP),
        "percpu_free_percpu": (PTR, "int", PTR),
        "alloc_vmap_area": (*(CALL_SITE,) * 5, "int"),
        "free_vmap_area_noflush": (CALL_SITE,) * 3,
    },
}
KNOBS = {
    "5.10": {
        "KMALLOC_PTR": 1,
        "KMALLOC_BYTES_REQ": 2,
        "KMALLOC_BYTES_ALLOC": 3,
        "KMEM_CACHE_ALLOC_PTR": 1,
        "KMEM_CACHE_ALLOC_BYTES_REQ": 2,
        "KMEM_CACHE_ALLOC_BYTES_ALLOC": 3,
        "MM_PAGE_ALLOC_PTR": 0,
        "MM_PAGE_ALLOC_ORDER": 1,
        "PERCPU_ALLOC_PERCPU_PTR": 6,
        "PERCPU_ALLOC_PERCPU_BYTES_REQ": 2,
        "PERCPU_FREE_PERCPU_PTR": 2,
    },
    "5.19": {
        "KMALLOC_PTR": 1,
        "KMALLOC_BYTES_REQ": 3,
        "KMALLOC_BYTES_ALLOC": 4,
        "KMEM_CACHE_ALLOC_PTR": 1,
        "KMEM_CACHE_ALLOC_CACHE": 2,
        "KMEM_CACHE_ALLOC_BYTES_REQ": 3,
        "KMEM_CACHE_ALLOC_BYTES_ALLOC": 4,
    },
    "6.1": {
        "KMALLOC_PTR": 1,
        "KMALLOC_BYTES_REQ": 2,
        "KMALLOC_BYTES_ALLOC": 3,
        "KMEM_CACHE_ALLOC_PTR": 1,
        "KMEM_CACHE_ALLOC_CACHE": 2,
        "PERCPU_ALLOC_PERCPU_PTR": 7,
        "PERCPU_ALLOC_PERCPU_BYTES_REQ": 3,
        "PERCPU_ALLOC_PERCPU_BYTES_ALLOC": 8,
        "PERCPU_ALLOC_PERCPU_CALL_SITE": 0,
        "PERCPU_FREE_PERCPU_PTR": 2,
        "ALLOC_VMAP_AREA_PTR": 0,
        "ALLOC_VMAP_AREA_BYTES_ALLOC": 1,
        "ALLOC_VMAP_AREA_FAILED": 5,
    },
}


@pytest.mark.parametrize("version", ARGUMENTS)
def test_arguments_are_recognized_by_their_types(version: str) -> None:
    knobs: dict[str, int] = {}
    for tracepoint in TRACEPOINTS:
        arguments = ARGUMENTS[version].get(tracepoint.name)
        if arguments is not None:
            read = tracepoint.read(arguments)
            assert read is not None, tracepoint.name
            assert all(knobs.get(knob, place) == place for knob, place in read.items())
            knobs |= read
    assert knobs == KNOBS[version]


@pytest.mark.parametrize("arguments", [(), ("int",), (PTR, PTR), (CALL_SITE,), ("page *",) * 9])
def test_arguments_that_make_no_sense(arguments: tuple[str, ...]) -> None:
    """A kernel that has changed them again is not misread."""
    for tracepoint in TRACEPOINTS:
        if not tracepoint.is_release:
            assert tracepoint.read(arguments) is None


# Names of /proc/kallsyms, by the version they were there.
NAMES = {
    "5.10": "kfree kmem_cache_free kvfree_call_rcu kmem_cache_free_bulk __kmalloc __kmalloc_node "
    "__kmalloc_track_caller __kmalloc_node_track_caller kmem_cache_alloc_trace "
    "kmem_cache_alloc_node_trace kmalloc_order kmalloc_order_trace kvmalloc_node kmem_cache_alloc "
    "kmem_cache_alloc_node pcpu_alloc free_percpu __vmalloc_node_range vfree",
    "6.1": "kfree kmem_cache_free kvfree_call_rcu kmem_cache_free_bulk __kmalloc __kmalloc_node "
    "__kmalloc_node_track_caller kmalloc_trace kmalloc_node_trace kmalloc_large kmalloc_large_node "
    "kvmalloc_node kmem_cache_alloc kmem_cache_alloc_node kmem_cache_alloc_lru pcpu_alloc "
    "free_percpu __vmalloc_node_range vfree vfree_atomic",
    "6.12": "kfree kmem_cache_free kvfree_call_rcu kmem_cache_free_bulk __kmalloc_noprof "
    "__kmalloc_node_noprof __kmalloc_node_track_caller_noprof __kmalloc_cache_noprof "
    "__kmalloc_cache_node_noprof __kmalloc_large_noprof __kmalloc_large_node_noprof "
    "__kvmalloc_node_noprof kmem_cache_alloc_noprof kmem_cache_alloc_node_noprof "
    "kmem_cache_alloc_lru_noprof pcpu_alloc_noprof free_percpu __vmalloc_node_range_noprof vfree "
    "vfree_atomic",
}


def symbols_of(names: str) -> Kallsyms:
    lines = [f"{0xFFFFFFFF81000000 + 256 * i:016x} T {n}" for i, n in enumerate(names.split())]
    return Kallsyms("".join(f"{line}\n" for line in lines).encode())


@pytest.fixture
def with_kprobes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "has_kprobes", lambda: True)


@pytest.mark.parametrize("version", NAMES)
def test_every_allocation_function_is_probed(version: str, with_kprobes: None) -> None:
    target = KernelTarget(probes=KernelProbes.KPROBE, percpu=True, vmalloc=True)
    plan = plan_kernel(target, symbols_of(NAMES[version]))
    assert {probe.function for probe in plan.probes} == set(NAMES[version].split())
    assert plan.notes == []
    # What is freed while the probes are attached one at a time must not have been recorded.
    releases = {group.entry for group in FUNCTIONS if group.is_release}
    releases |= {"free_by_rcu", "free_in_bulk"}
    first_allocation = next(i for i, p in enumerate(plan.probes) if p.program not in releases)
    assert all(p.program not in releases for p in plan.probes[first_allocation:])
    # A return probe before its entry probe would find nothing. An entry probe before its return
    # probe leaves nothing.
    allocations = [probe for probe in plan.probes if probe.program not in releases]
    assert {p.function for p in allocations if p.is_return} == {
        p.function for p in allocations if not p.is_return
    }


def test_a_missing_name_is_reported(with_kprobes: None) -> None:
    names = NAMES["6.1"].replace(" kmalloc_trace ", " ")
    plan = plan_kernel(KernelTarget(probes=KernelProbes.KPROBE), symbols_of(names))
    assert any("kmalloc of constant size" in note for note in plan.notes)
    assert "__kmalloc" in {probe.function for probe in plan.probes}


def test_tracepoints_are_preferred_and_kprobes_confirm(with_kprobes: None) -> None:
    try:
        KernelTypes().close()
    except EnvironmentUnfitError as error:
        pytest.skip(error.message)
    plan = plan_kernel(KernelTarget(pages=True), symbols_of(NAMES["6.12"]))
    assert {tracepoint.section for tracepoint in plan.tracepoints} == {Section.SLAB, Section.PAGES}
    assert {probe.function for probe in plan.probes} == {"kvfree_call_rcu", "kmem_cache_free_bulk"}
    assert [t.is_release for t in plan.tracepoints] == sorted(
        (t.is_release for t in plan.tracepoints), reverse=True
    )


def test_without_type_information_kprobes_serve(
    with_kprobes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> KernelTypes:
        raise EnvironmentUnfitError("this kernel has no type information (BTF)")

    monkeypatch.setattr(kernel_plan, "KernelTypes", none)
    plan = plan_kernel(KernelTarget(), symbols_of(NAMES["5.10"]))
    assert plan.tracepoints == []
    functions = {probe.function for probe in plan.probes}
    assert {"__kmalloc", "kfree"} <= functions
    # The sizes of its objects are in struct kmem_cache, whose layout is unknown.
    assert "kmem_cache_alloc" not in functions
    assert any("kmem_cache_alloc" in note and "BTF" in note for note in plan.notes)


def test_neither_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAKTRACE_WITHOUT", "kprobes,tracepoints")
    with pytest.raises(EnvironmentUnfitError, match="no tracepoints for slab"):
        plan_kernel(KernelTarget(), symbols_of(NAMES["6.1"]))
    with pytest.raises(EnvironmentUnfitError, match="no kprobes"):
        plan_kernel(KernelTarget(probes=KernelProbes.KPROBE), symbols_of(NAMES["6.1"]))


# --- type information -----------------------------------------------------------------------------

TYPES = """
struct inner { int a; };
struct kmem_cache {
    void *first;
    union { struct { unsigned flags; unsigned size; }; long other; };
    unsigned bits : 3;
    struct inner named;
    const char *name;
};
struct page;
typedef unsigned long size_type;
typedef void (*btf_trace_allocate)(void *, unsigned long, const void *, struct kmem_cache *,
                                   const struct page *, size_type, _Bool, char **);
typedef int btf_trace_no_function;
struct kmem_cache used;
btf_trace_allocate also;
btf_trace_no_function too;
"""


@pytest.fixture(scope="module")
def types_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BTF as clang makes it of some C."""
    if shutil.which("clang") is None:
        pytest.skip("needs clang")
    folder = tmp_path_factory.mktemp("btf")
    (folder / "types.c").write_text(TYPES)
    subprocess.run(
        ["clang", "-g", "-O1", "-target", "bpf", "-c", "types.c", "-o", "types.o"],
        cwd=folder,
        check=True,
    )
    return folder / "types.o"


def test_types(types_file: Path) -> None:
    types = KernelTypes(str(types_file))
    assert types.tracepoint_arguments("allocate") == (
        "long unsigned int",
        "void *",
        "kmem_cache *",
        "page *",
        "size_type",
        "_Bool",
        "char **",
    ) or types.tracepoint_arguments("allocate") == (
        "unsigned long",
        "void *",
        "kmem_cache *",
        "page *",
        "size_type",
        "_Bool",
        "char **",
    )
    assert types.tracepoint_arguments("nothing") is None
    assert types.tracepoint_arguments("no_function") is None
    assert types.member_offset("kmem_cache", "size") == 12
    assert types.member_offset("kmem_cache", "other") == 8
    assert types.member_offset("kmem_cache", "name") == 24
    assert types.member_offset("kmem_cache", "a") is None
    assert types.member_offset("page", "flags") is None
    types.close()


def test_no_types(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(EnvironmentUnfitError, match="no type information"):
        KernelTypes(str(tmp_path / "empty"))
