"""/proc/PID/smaps, in text made by hand and of processes that exist."""

from __future__ import annotations

import mmap
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies

from leaktrace.memory_map import Figures, MapKind
from leaktrace.targets.address_space import look_at
from leaktrace.targets.map_kinds import kind_of
from leaktrace.targets.mappings import Mapping, parse_mappings
from leaktrace.targets.rollup import parse_rollup
from leaktrace.targets.smaps import Entry, MappingsGoneError, parse_smaps, read_smaps

FIELDS = b"""Size:                 64 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                  40 kB
Pss:                  30 kB
Pss_Dirty:             7 kB
Shared_Clean:          5 kB
Referenced:           40 kB
Anonymous:            20 kB
LazyFree:              4 kB
AnonHugePages:         8 kB
ShmemPmdMapped:       16 kB
FilePmdMapped:        32 kB
Shared_Hugetlb:     2048 kB
Private_Hugetlb:    4096 kB
Swap:                 12 kB
SwapPss:              11 kB
Locked:                0 kB
THPeligible:           0
VmFlags: rd wr mr mw me ac sd 
"""  # noqa: W291 (the kernel ends the line in a blank)
KIB = 1 << 10


def one(head: bytes, fields: bytes = FIELDS) -> Entry:
    (entry,) = parse_smaps(head + b"\n" + fields)
    return entry


def test_figures() -> None:
    entry = one(b"10000-20000 rw-p 00000000 00:00 0 ")
    assert entry.figures == Figures(
        reserved=64 * KIB,
        resident=40 * KIB,
        proportional=30 * KIB,
        swapped=12 * KIB,
        huge=56 * KIB,
        hugetlb=6144 * KIB,
        lazily_freed=4 * KIB,
    )
    assert entry.figures.held == (40 + 12 + 6144) * KIB
    assert entry.flags == {"rd", "wr", "mr", "mw", "me", "ac", "sd"}
    assert (entry.mapping.start, entry.mapping.end) == (0x10000, 0x20000)


@pytest.mark.parametrize(
    ("written", "path", "deleted"),
    [
        (rb"/tmp/line\012Rss: 999999 kB", "/tmp/line\nRss: 999999 kB", False),
        (rb"/tmp/20000-30000 rw-p 0 00:00 0", "/tmp/20000-30000 rw-p 0 00:00 0", False),
        (b"/tmp/gone (deleted)", "/tmp/gone", True),
        (b"/tmp/\xff\xfe", "/tmp/\udcff\udcfe", False),
        (b"/" + b"d/" * 3000, "/" + "d/" * 3000, False),
        (b"/tmp/\rRss: 1 kB\r", "/tmp/\rRss: 1 kB\r", False),
        (b"/tmp/\x0bRss: 1 kB", "/tmp/\x0bRss: 1 kB", False),
    ],
)
def test_hostile_names(written: bytes, path: str, deleted: bool) -> None:
    """The kernel escapes a newline, and nothing else: no name makes another line."""
    entry = one(b"10000-20000 rw-p 00000000 08:01 7                   " + written)
    assert (entry.mapping.path, entry.mapping.deleted) == (path, deleted)
    assert entry.figures.resident == 40 * KIB


def test_what_has_another_form_is_skipped() -> None:
    assert parse_smaps(b"") == ()
    assert parse_smaps(b"Rss: 4 kB\nnonsense\n") == ()
    text = b"zz-20000 rw-p\nRss:  4 kB\n10000-20000 what\nRss:  8 kB\n" + one_text(0x30000)
    assert [entry.mapping.start for entry in parse_smaps(text)] == [0x30000]


def one_text(start: int) -> bytes:
    return b"%x-%x rw-p 00000000 00:00 0 \n" % (start, start + 0x10000) + FIELDS


@given(strategies.binary(max_size=300))
def test_any_text_is_parsed(junk: bytes) -> None:
    entries = parse_smaps(one_text(0x10000) + junk)
    assert entries[0].mapping.start == 0x10000


def test_fields_that_a_kernel_lacks_are_zero() -> None:
    entry = one(b"10000-20000 rw-p 00000000 00:00 0 ", b"Size: 64 kB\nRss:  4 kB\n")
    assert entry.figures == Figures(reserved=64 * KIB, resident=4 * KIB)
    assert entry.flags == frozenset()


def test_a_process_that_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        with pytest.raises(MappingsGoneError):
            read_smaps(process.pid)


def test_a_zombie_has_no_mappings() -> None:
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(MappingsGoneError):
            read_smaps(pid)
    finally:
        os.waitpid(pid, 0)


def test_our_own_sums_are_those_of_the_kernel() -> None:
    """Shared memory of a known size, and all together within what changes between two looks."""
    with mmap.mmap(-1, 4 << 20) as memory:  # shared and anonymous
        memory.write(bytes(1 << 20))
        look = look_at(os.getpid())
        rollup = Path("/proc/self/smaps_rollup").read_text()
    (ours,) = [one for one in look.ranges if one.figures.reserved == 4 << 20 and "s" in
               one.permissions]  # fmt: skip
    assert (ours.kind, ours.figures.resident) == (MapKind.SHARED_MEMORY, 1 << 20)
    expected = 1024 * int(re.findall(r"^Rss:\s+(\d+) kB", rollup, re.M)[0])
    assert abs(sum(one.figures.resident for one in look.ranges) - expected) < 1 << 20


# --- kinds ---------------------------------------------------------------------------------------


def mapping(line: str) -> Mapping:
    (found,) = parse_mappings(line.encode())
    return found


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("rw-p 0 00:00 0", MapKind.ANONYMOUS),
        ("rwxp 0 00:00 0", MapKind.ANONYMOUS),
        ("---p 0 00:00 0", MapKind.INACCESSIBLE),
        ("---p 0 08:01 7 /lib/libc.so.6", MapKind.INACCESSIBLE),
        ("rw-p 0 00:00 0 [heap]", MapKind.HEAP),
        ("rw-p 0 00:00 0 [stack]", MapKind.MAIN_STACK),
        ("rw-p 0 00:00 0 [stack:4242]", MapKind.THREAD_STACK),
        ("rw-p 0 00:00 0 [anon: glibc: pthread stack: 4242]", MapKind.THREAD_STACK),
        ("rw-p 0 00:00 0 [anon:stack_and_tls:4242]", MapKind.THREAD_STACK),
        ("rw-p 0 00:00 0 [anon: glibc: malloc arena]", MapKind.ARENA),
        ("rw-p 0 00:00 0 [anon: glibc: malloc]", MapKind.ARENA),
        ("rw-p 0 00:00 0 [anon:jemalloc_pg]", MapKind.ARENA),
        ("rw-p 0 00:00 0 [anon:tcmalloc_region_NORMAL]", MapKind.ARENA),
        ("rw-p 0 00:00 0 [anon:mimalloc]", MapKind.ARENA),
        ("rw-p 0 00:00 0 [anon: Go: heap]", MapKind.ANONYMOUS),
        ("---p 0 00:00 0 [anon:jemalloc_pg]", MapKind.INACCESSIBLE),
        ("rw-p 0 00:00 0 [anon:]", MapKind.ANONYMOUS),
        ("rw-s 0 00:01 9 [anon_shmem:cache]", MapKind.SHARED_MEMORY),
        ("rw-s 0 00:01 9 /dev/zero (deleted)", MapKind.SHARED_MEMORY),
        ("rw-s 0 00:01 9 /memfd:cache (deleted)", MapKind.SHARED_MEMORY),
        ("rw-s 0 00:01 9 /SYSV00000000 (deleted)", MapKind.SHARED_MEMORY),
        ("rw-s 0 00:19 9 /dev/shm/queue", MapKind.SHARED_MEMORY),
        ("rw-s 0 08:01 9 /data", MapKind.SHARED_FILE),
        ("rw-s 0 08:01 9 /memfd:x", MapKind.SHARED_FILE),  # a file of that name on a disk
        ("r-xp 0 08:01 9 /lib/libc.so.6", MapKind.CODE),
        ("r--p 0 08:01 9 /lib/libc.so.6", MapKind.PRIVATE_FILE),
        ("rw-p 0 08:01 9 /lib/libc.so.6", MapKind.PRIVATE_FILE),
        ("rw-p 0 08:01 9 [heap]x", MapKind.PRIVATE_FILE),
        ("r-xp 0 00:00 0 [vdso]", MapKind.OTHER),
        ("r--p 0 00:00 0 [vvar]", MapKind.OTHER),
        ("--xp 0 00:00 0 [vsyscall]", MapKind.OTHER),
        ("rw-s 0 00:05 9 /dev/dri/renderD128", MapKind.OTHER),
        ("rw-s 0 00:0e 9 anon_inode:[io_uring]", MapKind.OTHER),
    ],
)
def test_kinds(line: str, kind: MapKind) -> None:
    assert kind_of(mapping(f"10000-20000 {line}"), (), frozenset({"00:19"})) is kind


def test_kinds_that_the_name_does_not_tell() -> None:
    one = mapping("10000-20000 rw-p 0 00:00 0")
    assert kind_of(one, (), frozenset(), is_arena=True) is MapKind.ARENA
    assert kind_of(one, (), frozenset(), is_stack=True) is MapKind.THREAD_STACK
    assert kind_of(one, {"ht"}, frozenset()) is MapKind.HUGETLB


def test_rollup() -> None:
    text = FIELDS.decode()
    found = parse_rollup(text)
    assert found is not None
    assert (found.huge, found.lazily_freed) == (56 * KIB, 4 * KIB)
    assert parse_rollup("Rss:  4 kB\n") is None
    assert parse_rollup("") is None
