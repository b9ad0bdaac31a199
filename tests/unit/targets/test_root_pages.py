"""Which memory may hold pointers: of a child that says where it has what."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from leaktrace.targets.mappings import Mapping, read_mappings
from leaktrace.targets.page_map import PAGE_BYTES
from leaktrace.targets.root_pages import root_pages

# Each line: a name, and the address of a page.
CHILD = textwrap.dedent(
    """
    import ctypes, mmap, os, sys, tempfile

    PAGE = mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
    ANONYMOUS, PRIVATE, SHARED = mmap.MAP_ANONYMOUS, mmap.MAP_PRIVATE, mmap.MAP_SHARED

    def mapped(flags, file=-1, protection=3):
        return libc.mmap(None, 4 * PAGE, protection, flags, file, 0)

    def write(address):
        ctypes.c_char.from_address(address).value = b"x"

    def told(name, address):
        print(name, address, flush=True)

    def protect(address, protection):
        assert libc.mprotect(ctypes.c_void_p(address), PAGE, protection) == 0

    mark = ctypes.create_string_buffer(b"x")
    told("heap", libc.sbrk(0) - 1)
    ctypes.c_char.from_address(libc.sbrk(0) - 1).value = b"x"
    told("stack", int(open("/proc/self/stat").read().rpartition(")")[2].split()[25]))
    at = mapped(PRIVATE | ANONYMOUS)
    write(at)
    told("written", at)
    ctypes.c_char.from_address(at + PAGE).value
    told("only_read", at + PAGE)
    told("untouched", at + 2 * PAGE)
    at = mapped(PRIVATE | ANONYMOUS)
    write(at)
    protect(at, mmap.PROT_READ)
    told("sealed", at)
    at = mapped(PRIVATE | ANONYMOUS)
    write(at)
    protect(at, 0)
    told("forbidden", at)
    at = mapped(SHARED | ANONYMOUS)
    write(at)
    told("shared", at)
    memory = os.memfd_create("some")
    os.truncate(memory, 4 * PAGE)
    at = mapped(SHARED, memory)
    write(at)
    told("memfd", at)
    file = tempfile.TemporaryFile(dir=sys.argv[1])
    file.truncate(4 * PAGE)
    at = mapped(SHARED, file.fileno())
    write(at)
    told("file", at)
    at = mapped(PRIVATE, file.fileno())
    write(at)
    told("changed", at)
    ctypes.c_char.from_address(at + PAGE).value
    told("unchanged", at + PAGE)
    with open("/proc/self/maps") as maps:
        lines = [line.split() for line in maps]
    libraries = [words for words in lines if "/libc.so.6" in words[-1]]
    code = next(words for words in libraries if "x" in words[1])
    told("code", int(code[0].split("-")[0], 16))
    data = [words for words in libraries if words[1] == "rw-p"]
    told("data", int(data[0][0].split("-")[0], 16))
    relro = [words for words in libraries if words[1] == "r--p"][-1]
    told("relro", int(relro[0].split("-")[0], 16))
    told("vdso", next(int(one[0].split("-")[0], 16) for one in lines if one[-1] == "[vdso]"))
    print("done", flush=True)
    sys.stdin.read()
    """
)
HOLD = {
    "heap",
    "stack",
    "written",
    "sealed",
    "shared",
    "memfd",
    "changed",
    "data",
    "relro",
    "forbidden",
}
DONT = {"untouched", "file", "unchanged", "code", "vdso"}


@dataclass(frozen=True)
class Child:
    pid: int
    pages: dict[str, int]


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    argv = [sys.executable, "-c", CHILD, str(tmp_path_factory.mktemp("mapped"))]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None
        lines = list(iter(one.stdout.readline, "done\n"))
        words = [line.split() for line in lines]
        yield Child(one.pid, {name: int(address) for name, address in words})


def found(pid: int, scans: bool, mappings: tuple[Mapping, ...] | None = None) -> list[list[int]]:
    of = read_mappings(pid) if mappings is None else mappings
    pages: list[list[int]] = root_pages(pid, of, scans=scans).tolist()
    return pages


def is_in(address: int, pages: list[list[int]]) -> bool:
    return any(low <= address < high for low, high in pages)


@pytest.mark.parametrize("scans", [True, False], ids=["scan", "read"])
def test_pages_that_hold_pointers(child: Child, scans: bool) -> None:
    pages = found(child.pid, scans)
    assert {name for name in HOLD if is_in(child.pages[name], pages)} == HOLD
    assert {name for name in DONT if is_in(child.pages[name], pages)} == set()
    assert pages == sorted(pages)
    ends = [high for _, high in pages]
    assert all(high <= low for high, (low, _) in zip(ends, pages[1:], strict=False))


def test_pages_of_zeros_are_left_out_where_the_kernel_says_so(child: Child) -> None:
    assert not is_in(child.pages["only_read"], found(child.pid, scans=True))


def test_both_ways_are_the_same_but_for_pages_of_zeros(child: Child) -> None:
    def single(pages: list[list[int]]) -> set[int]:
        return {at for low, high in pages for at in range(low, high, PAGE_BYTES)}

    scanned, read = single(found(child.pid, scans=True)), single(found(child.pid, scans=False))
    assert scanned <= read
    with Path(f"/proc/{child.pid}/mem").open("rb", buffering=0) as memory:
        for page in read - scanned:
            assert os.pread(memory.fileno(), PAGE_BYTES, page) == bytes(PAGE_BYTES)


@pytest.mark.parametrize("scans", [True, False], ids=["scan", "read"])
def test_no_mappings(child: Child, scans: bool) -> None:
    assert found(child.pid, scans, ()) == []


@pytest.mark.parametrize("scans", [True, False], ids=["scan", "read"])
def test_a_process_that_has_ended(child: Child, scans: bool) -> None:
    """Its pages are not known: that isn't to have none."""
    mappings = read_mappings(child.pid)
    one = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(OSError):
        root_pages(one.pid, mappings, scans=scans)
    one.wait()
    with pytest.raises(OSError):
        root_pages(one.pid, mappings, scans=scans)
