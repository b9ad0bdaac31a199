"""The kernel's symbols: /proc/kallsyms as text, by hand and as the running kernel has it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaktrace.kernel.trim import is_allocator, without_allocator, without_probe
from leaktrace.site import Frame
from leaktrace.symbols.kallsyms import Kallsyms, KernelSymbol

TEXT = b"""\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _text
ffffffff81000000 T _stext
ffffffff81000010 T __softirqentry_text_start
ffffffff81000010 T __do_softirq
ffffffff81000200 t do_one_initcall
ffffffff81000200 t __do_one_initcall_alias
ffffffff81000300 T alloc_pipe_info
ffffffff81000400 D some_data
ffffffffc0401000 t ext4_alloc_inode\t[ext4]
ffffffffc0401100 t ext4_last\t[ext4]
ffffffffc0801000 t bpf_prog_6deef7357e7b4530_at_kmalloc\t[bpf]
"""
MODULES = """\
ext4 8192 1 - Live 0xffffffffc0400000
crc16 4096 1 ext4, Live 0xffffffffc0300000 (E)
"""


@pytest.fixture
def symbols() -> Kallsyms:
    return Kallsyms(TEXT, MODULES, "c0ffee")


@pytest.mark.parametrize(
    ("address", "name", "module"),
    [
        (0xFFFFFFFF81000300, "alloc_pipe_info", None),
        (0xFFFFFFFF810003FF, "alloc_pipe_info", None),
        (0xFFFFFFFF81000210, "do_one_initcall", None),  # the better one of two names
        (0xFFFFFFFF81000010, "__do_softirq", None),  # not the label of the section
        (0xFFFFFFFFC04010FF, "ext4_alloc_inode", "ext4"),
        (0xFFFFFFFFC0401FFF, "ext4_last", "ext4"),
    ],
)
def test_lookup(symbols: Kallsyms, address: int, name: str, module: str | None) -> None:
    found = symbols.lookup(address)
    assert found is not None
    assert (found.name, found.module) == (name, module)


@pytest.mark.parametrize(
    "address",
    [
        0,
        0xFFFFFFFF80FFFFFF,  # before everything
        0xFFFFFFFFC0402000,  # behind the module, whose last symbol has no size
        0xFFFFFFFFFFFFFFFF,
        -1,
        1 << 64,
    ],
)
def test_nothing_is_there(symbols: Kallsyms, address: int) -> None:
    assert symbols.lookup(address) is None


def test_a_return_address_belongs_to_the_call_before_it(symbols: Kallsyms) -> None:
    """A function may end in a call that doesn't return."""
    frame = symbols.frame(0xFFFFFFFF81000400, is_return_address=True)
    assert (frame.function, frame.offset) == ("alloc_pipe_info", 0x100)
    assert symbols.frame(0xFFFFFFFF81000400, is_return_address=False).function == "some_data"


def test_frames_are_placed_where_every_boot_has_them(symbols: Kallsyms) -> None:
    moved = Kallsyms(
        TEXT.replace(b"ffffffff81", b"ffffffff91").replace(b"ffffffffc04", b"ffffffffc14"),
        MODULES.replace("c0400000", "c1400000"),
        "c0ffee",
    )
    for address, slide in ((0xFFFFFFFF81000310, 0x10000000), (0xFFFFFFFFC0401010, 0x1000000)):
        here = symbols.frame(address, is_return_address=True)
        there = moved.frame(address + slide, is_return_address=True)
        assert here.module_offset == there.module_offset is not None
        assert (here.function, here.module) == (there.function, there.module)
    assert symbols.frame(0xFFFFFFFF81000310, is_return_address=True).build_id == "c0ffee"
    assert symbols.frame(0xFFFFFFFFC0401010, is_return_address=True).build_id is None


def test_modules(symbols: Kallsyms) -> None:
    assert symbols.modules == {"ext4", "crc16"}
    assert symbols.frame(0xFFFFFFFFC0401010, is_return_address=True).module == "ext4"
    assert symbols.frame(0xFFFFFFFF81000310, is_return_address=True).module == "kernel"


def test_hidden_symbols_are_explained() -> None:
    """kernel.kptr_restrict=2: names are there, addresses are not."""
    lines = [b"0" * 16 + line[16:] for line in TEXT.splitlines()]
    hidden = Kallsyms(b"\n".join(lines) + b"\n")
    assert hidden.is_hidden
    assert "alloc_pipe_info" in hidden.names
    frame = hidden.frame(0xFFFFFFFF81000310, is_return_address=True)
    assert frame.function is None
    assert frame.unknown is not None
    assert "kptr_restrict" in frame.unknown


def test_find(symbols: Kallsyms) -> None:
    assert list(symbols.find("alloc_.*|nothing")) == [
        ("alloc_pipe_info", 0xFFFFFFFF81000300, 0xFFFFFFFF81000400)
    ]


@given(st.lists(st.integers(1, (1 << 64) - 2), min_size=1, unique=True), st.data())
def test_lookup_finds_the_nearest_before(starts: list[int], data: st.DataObject) -> None:
    starts.sort()
    text = b"".join(b"%016x T s%d\n" % (start, index) for index, start in enumerate(starts))
    symbols = Kallsyms(text)
    address = data.draw(st.integers(0, (1 << 64) - 1))
    nearest = [i for i, start in enumerate(starts) if start <= address][-1:]
    found = symbols.lookup(address)
    if found is None:
        assert not nearest or address - starts[nearest[0]] >= 1 << 20
    else:
        assert found == KernelSymbol(f"s{nearest[0]}", starts[nearest[0]], None)


@given(st.binary(max_size=400))
def test_garbage_is_no_symbol_table(text: bytes) -> None:
    """Reading any contents ends without an exception."""
    symbols = Kallsyms(text, text.decode("utf-8", "replace"))
    symbols.lookup(0xFFFFFFFF81000000)
    assert isinstance(symbols.names, frozenset)


def test_the_running_kernel() -> None:
    if not Path("/proc/kallsyms").exists():
        pytest.skip("this kernel has no symbols")
    symbols = Kallsyms.read()
    lines = Path("/proc/kallsyms").read_text().splitlines()
    assert abs(len(symbols) - len(lines)) < 5000  # BPF programs come and go
    assert "kfree" in symbols.names
    if symbols.is_hidden:
        pytest.skip("the kernel hides its addresses (kernel.kptr_restrict, or no root)")
    (line,) = [line for line in lines if line.endswith((" T kfree", " t kfree"))]
    address = int(line.split()[0], 16)
    frame = symbols.frame(address + 4, is_return_address=True)
    assert (frame.function, frame.offset, frame.module) == ("kfree", 4, "kernel")
    assert frame.build_id is None or len(frame.build_id) == 40


# --- stacks ---------------------------------------------------------------------------------------


def frames(*names: str | None) -> list[Frame]:
    return [Frame(index, name) for index, name in enumerate(names)]


def functions(those: list[Frame]) -> list[str | None]:
    return [frame.function for frame in those]


def test_the_probe_and_what_lies_before_it_are_cut() -> None:
    whole = frames(None, "bpf_trace_run5", "kmem_cache_alloc_noprof", "alloc_inode", "iget")
    assert functions(without_probe(whole)) == ["kmem_cache_alloc_noprof", "alloc_inode", "iget"]
    assert functions(without_allocator(without_probe(whole))) == ["alloc_inode", "iget"]


def test_a_program_that_allocates_is_not_the_probe() -> None:
    """Deep in a stack these names belong to other programs."""
    names = ["kmalloc", *[f"f{i}" for i in range(8)], "bpf_prog_1234_other", "bpf_trace_run2"]
    assert functions(without_probe(frames(*names))) == names


def test_a_stack_of_nothing_but_the_allocator_stays() -> None:
    whole = frames("__kmalloc", "kmalloc_trace")
    assert without_allocator(whole) == whole


@pytest.mark.parametrize(
    "function",
    re.findall(
        r"\S+",
        """
        __kmalloc __kmalloc_noprof __kmalloc_node __kmalloc_node_track_caller_noprof kmalloc_trace
        kmalloc_node_trace kmem_cache_alloc_trace __kmalloc_cache_noprof __kmalloc_cache_node_noprof
        kmalloc_large kmalloc_order_trace __kmalloc_large_node_noprof kmem_cache_alloc
        kmem_cache_alloc_node kmem_cache_alloc_lru_noprof __kvmalloc_node_noprof kvmalloc_node
        kmemdup
        kmemdup_noprof kstrdup kstrndup kasprintf kvasprintf memdup_user krealloc_node_align_noprof
        __alloc_pages __alloc_pages_nodemask __alloc_frozen_pages_noprof alloc_pages_mpol
        __get_free_pages get_zeroed_page __folio_alloc folio_alloc pcpu_alloc pcpu_alloc_noprof
        __alloc_percpu_gfp vmalloc __vmalloc_node_range_noprof vzalloc
        __get_vm_area_node.constprop.0
        alloc_vmap_area kcalloc kmalloc_array_noprof.constprop.0
        """,
    ),
)
def test_allocators(function: str) -> None:
    assert is_allocator(function)


@pytest.mark.parametrize(
    "function",
    re.findall(
        r"\S+",
        """
        alloc_pipe_info alloc_inode ext4_alloc_inode new_slab allocate_slab kmem_cache_create
        alloc_skb
        __alloc_skb copy_process do_anonymous_page vma_alloc_something kernel_clone kmsg_dump
        alloc_buffer_head vm_area_alloc mempool_alloc security_inode_alloc
        """,
    ),
)
def test_callers_are_no_allocators(function: str) -> None:
    assert not is_allocator(function)
