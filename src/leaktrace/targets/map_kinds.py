"""What a mapping of a process is for, by its name, its permissions and its flags."""

from __future__ import annotations

import re
from collections.abc import Collection

from leaktrace.memory_map import MapKind
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory_files import is_of_segment, is_shared_memory

# Names that programs give to anonymous memory (PR_SET_VMA_ANON_NAME, prctl(2)): glibc with the
# tunable decorate_maps, bionic, and allocators, which name what they take from the kernel.
_ARENA_NAME = re.compile(
    r"\[anon: ?(?:glibc: (?:loader )?malloc|.*(?:jemalloc|tcmalloc|mimalloc|snmalloc|rpmalloc"
    r"|scudo|partition_alloc|libc_malloc))"
)
_STACK_NAME = re.compile(
    r"\[anon: ?(?:glibc: pthread (?:user )?stack|stack_and_tls:)|\[stack:\d+\]"
)
_ANONYMOUS, _ANONYMOUS_SHARED = "[anon:", "[anon_shmem:"
_SHARED_ANONYMOUS = "/dev/zero"  # shared anonymous memory (mm/shmem.c, shmem_zero_setup)
_NO_FILES = ("/dev/", "anon_inode:", "/[aio]", "socket:", "/anon_hugepage")


def kind_of(
    mapping: Mapping,
    flags: Collection[str],
    memory_devices: frozenset[str],
    *,
    is_arena: bool = False,
    is_stack: bool = False,
) -> MapKind:
    """`flags`: VmFlags of smaps; `memory_devices` as of `targets/memory_files.py`; `is_arena` and
    `is_stack`: what was found out by looking at memory and threads."""
    name, permissions = mapping.path, mapping.permissions
    if "ht" in flags:
        return MapKind.HUGETLB
    if permissions.startswith("---"):
        return MapKind.INACCESSIBLE
    if name == "[heap]":
        return MapKind.HEAP
    if name == "[stack]":
        return MapKind.MAIN_STACK
    if is_stack or _STACK_NAME.match(name):
        return MapKind.THREAD_STACK
    if is_arena or _ARENA_NAME.match(name):
        return MapKind.ARENA
    if mapping.is_file:
        return _kind_of_file(mapping, memory_devices)
    if name.startswith(_ANONYMOUS_SHARED):
        return MapKind.SHARED_MEMORY
    return MapKind.ANONYMOUS if name == "" or name.startswith(_ANONYMOUS) else MapKind.OTHER


def _kind_of_file(mapping: Mapping, memory_devices: frozenset[str]) -> MapKind:
    name = mapping.path
    if mapping.permissions.endswith("s"):
        is_memory = is_shared_memory(mapping, memory_devices) or is_of_segment(mapping)
        if is_memory or name == _SHARED_ANONYMOUS or name.startswith(_ANONYMOUS_SHARED):
            return MapKind.SHARED_MEMORY
    if name.startswith(_NO_FILES) and not name.startswith("/dev/shm/"):
        return MapKind.OTHER
    if mapping.permissions.endswith("s"):
        return MapKind.SHARED_FILE
    return MapKind.CODE if mapping.is_executable else MapKind.PRIVATE_FILE
