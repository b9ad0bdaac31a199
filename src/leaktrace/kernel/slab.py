"""The slab caches of the running kernel: /proc/slabinfo (slabinfo(5)), for root only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from leaktrace.abi.kernel import LARGEST_SLAB_CLASS
from leaktrace.errors import UsageError

SLABINFO = Path("/proc/slabinfo")
SLAB_FOLDER = Path("/sys/kernel/slab")

LARGE_KMALLOC = "kmalloc-large"  # leaktrace's name for what kmalloc takes from the page allocator
# kmalloc-64, kmalloc-cg-64 (accounted), kmalloc-rcl-1k (reclaimable), kmalloc-rnd-05-64, dma-…
_KMALLOC = re.compile(r"(?:dma-)?kmalloc(?:-[a-z]+(?:-\d+)?)?-(\d+)(k|M)?")


@dataclass(frozen=True)
class SlabCache:
    """One line of /proc/slabinfo. `active` counts the objects in use, including free ones that a
    CPU keeps in reserve."""

    name: str
    active: int
    object_bytes: int

    @property
    def bytes(self) -> int:
        return self.active * self.object_bytes


def read_slab_caches(text: str | None = None) -> dict[str, SlabCache]:
    """By name; empty where /proc/slabinfo can't be read."""
    if text is None:
        try:
            text = SLABINFO.read_text(errors="surrogateescape")
        except OSError:
            return {}
    caches = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 6 and fields[1].isdigit() and not line.startswith("#"):
            caches[fields[0]] = SlabCache(fields[0], int(fields[1]), int(fields[3]))
    return caches


def kmalloc_class_bytes(name: str) -> int | None:
    """The size of a kmalloc cache's objects, by its name; None for other caches."""
    found = _KMALLOC.fullmatch(name)
    if found is None:
        return None
    return int(found[1]) * {None: 1, "k": 1 << 10, "M": 1 << 20}[found[2]]


def kmalloc_class_name(size_bytes: int) -> str:
    """The name of the cache that serves a kmalloc (mm/slab_common.c: kmalloc_info). Events don't
    distinguish kmalloc-64, kmalloc-cg-64 and so on: one name means all caches of a size."""
    if size_bytes > LARGEST_SLAB_CLASS or size_bytes == 0:
        return LARGE_KMALLOC
    if size_bytes >= 1024 and size_bytes % 1024 == 0:
        return f"kmalloc-{size_bytes // 1024}k"
    return f"kmalloc-{size_bytes}"


def traced_name(cache: str) -> str:
    """The name under which allocations from a cache are traced."""
    size = kmalloc_class_bytes(cache)
    return cache if size is None else kmalloc_class_name(size)


@dataclass(frozen=True)
class WantedCaches:
    """The caches of --cache: by name, and kmalloc's by size class (0: large allocations)."""

    names: frozenset[str]
    kmalloc_bytes: frozenset[int]


def choose_caches(patterns: tuple[str, ...]) -> WantedCaches:
    """The caches that match one of the patterns. Raises UsageError if a pattern matches none."""
    caches = read_slab_caches()
    aliases = _aliases(set(caches))
    names: set[str] = set()
    sizes: set[int] = set()
    for pattern in patterns:
        matching = {name for name in caches if fnmatchcase(name, pattern)}
        matching |= {real for alias, real in aliases.items() if fnmatchcase(alias, pattern)}
        large = fnmatchcase(LARGE_KMALLOC, pattern)
        if not matching and not large:
            raise UsageError(
                f"no slab cache is called {pattern}",
                "the first column of /proc/slabinfo lists them; * and ? match any letters",
            )
        if large:
            sizes.add(0)
        for name in matching:
            size = kmalloc_class_bytes(name)
            if size is None:
                names.add(name)
            else:
                sizes.add(size)
    return WantedCaches(frozenset(names), frozenset(sizes))


def _aliases(known: set[str]) -> dict[str, str]:
    """Caches that SLUB has merged with another, to the one that /proc/slabinfo shows.

    Both are links to the same folder in /sys/kernel/slab, which is named after their properties.
    """
    by_folder: dict[str, list[str]] = {}
    try:
        entries = [entry for entry in SLAB_FOLDER.iterdir() if entry.is_symlink()]
        for entry in entries:
            by_folder.setdefault(str(entry.readlink()), []).append(entry.name)
    except OSError:
        return {}
    aliases: dict[str, str] = {}
    for names in by_folder.values():
        shown = [name for name in names if name in known]
        if len(shown) == 1:
            aliases |= {name: shown[0] for name in names if name not in known}
    return aliases
