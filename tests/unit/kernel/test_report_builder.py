"""Reports of kernel mode: caches by name, sections, doubts, from maps made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leaktrace.abi.kernel import (
    KERNEL_ALLOCATION,
    KERNEL_LOSS_KINDS,
    KERNEL_SITE,
    Context,
    KernelLossKind,
    Section,
)
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.errors import UsageError
from leaktrace.kernel import slab as kernel_slab
from leaktrace.kernel.losses import describe_kernel_losses
from leaktrace.kernel.probes.plan import KernelPlan
from leaktrace.kernel.report_builder import KernelReportBuilder
from leaktrace.kernel.slab import (
    SlabCache,
    choose_caches,
    kmalloc_class_bytes,
    kmalloc_class_name,
    read_slab_caches,
)
from leaktrace.kernel.snapshot import KernelSnapshot
from leaktrace.model import Report, TargetInfo
from leaktrace.options import KernelOptions, KernelTarget, Limits, ReportOptions
from leaktrace.site import Frame, Stack, StackEnd

S = 1_000_000_000
NOW = 1_000 * S
KERNEL = TargetInfo(0, "kernel", "kernel")

SLABINFO = """\
slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables
ext4_inode_cache     120    140   1184   27    8 : tunables 0 0 0 : slabdata 5 5 0
kmalloc-cg-64         10     64     64   64    1 : tunables 0 0 0 : slabdata 1 1 0
kmalloc-64           100    128     64   64    1 : tunables 0 0 0 : slabdata 2 2 0
msg_msg-64             5     64     64   64    1 : tunables 0 0 0 : slabdata 1 1 0
kmalloc-8k             1      4   8192    4    8 : tunables 0 0 0 : slabdata 1 1 0
maple_node            50     64    256   16    1 : tunables 0 0 0 : slabdata 4 4 0
"""


# --- slab caches --------------------------------------------------------------------------------


def test_slabinfo() -> None:
    caches = read_slab_caches(SLABINFO)
    assert list(caches) == [
        "ext4_inode_cache",
        "kmalloc-cg-64",
        "kmalloc-64",
        "msg_msg-64",
        "kmalloc-8k",
        "maple_node",
    ]
    assert caches["ext4_inode_cache"] == SlabCache("ext4_inode_cache", 120, 1184)
    assert caches["ext4_inode_cache"].bytes == 120 * 1184


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("kmalloc-64", 64),
        ("kmalloc-8k", 8192),
        ("kmalloc-cg-1k", 1024),
        ("kmalloc-rcl-96", 96),
        ("dma-kmalloc-8", 8),
        ("kmalloc-rnd-05-192", 192),
        ("ext4_inode_cache", None),
        ("kmalloc_buckets", None),
    ],
)
def test_kmalloc_caches(name: str, size: int | None) -> None:
    assert kmalloc_class_bytes(name) == size


@pytest.mark.parametrize(
    ("size", "name"),
    [
        (8, "kmalloc-8"),
        (192, "kmalloc-192"),
        (512, "kmalloc-512"),
        (1024, "kmalloc-1k"),
        (8192, "kmalloc-8k"),
        (16384, "kmalloc-large"),
    ],
)
def test_kmalloc_names(size: int, name: str) -> None:
    assert kmalloc_class_name(size) == name


@pytest.fixture
def slab_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slabinfo").write_text(SLABINFO)
    folder = tmp_path / "slab"
    (folder / ":0000256").mkdir(parents=True)
    for alias in ("maple_node", "merged_cache"):
        (folder / alias).symlink_to(":0000256")
    monkeypatch.setattr(kernel_slab, "SLABINFO", tmp_path / "slabinfo")
    monkeypatch.setattr(kernel_slab, "SLAB_FOLDER", folder)


@pytest.mark.parametrize(
    ("patterns", "names", "sizes"),
    [
        (("ext4_*",), {"ext4_inode_cache"}, set()),
        (("kmalloc-*",), set(), {64, 8192, 0}),
        (("kmalloc-large",), set(), {0}),
        (("merged_c?che",), {"maple_node"}, set()),  # as it is shown
        (("maple_node", "kmalloc-64"), {"maple_node"}, {64}),
    ],
)
def test_choose_caches(
    slab_files: None, patterns: tuple[str, ...], names: set[str], sizes: set[int]
) -> None:
    chosen = choose_caches(patterns)
    assert (set(chosen.names), set(chosen.kmalloc_bytes)) == (names, sizes)


def test_a_pattern_that_matches_nothing(slab_files: None) -> None:
    with pytest.raises(UsageError, match="no slab cache is called xfs_"):
        choose_caches(("maple_node", "xfs_*"))


# --- reports ------------------------------------------------------------------------------------


def stack_of(stack_id: int) -> Stack:
    """Stacks 1 and 2 are the same code, allocating from different caches."""
    if stack_id == 0:
        return Stack((), StackEnd.LOST)
    name = f"function_{min(stack_id, 3) // 2}"
    frame = Frame(0xFFFF0000 + stack_id // 2, name, 1, "kernel", module_offset=stack_id // 2)
    return Stack((frame,), StackEnd.COMPLETE)


def site(stack_id: int, count: int, size: int, **fields: Any) -> tuple[int, np.void]:
    value = np.zeros(1, dtype=KERNEL_SITE)[0]
    value["allocated_bytes"], value["allocated_count"] = count * size, count
    value["allocated_requested"] = count * (size - 8)
    value["end"] = 1
    for name, content in fields.items():
        value[name] = content
    return stack_id, value


def snapshot(
    *sites: tuple[int, np.void], ages_ns: dict[int, int] | None = None, **others: Any
) -> KernelSnapshot:
    """One record for each object that a site holds."""
    sections = {}
    for section in (Section.SLAB, Section.PAGES):
        own = [(stack_id, value) for stack_id, value in sites if value["section"] == section]
        records = []
        for stack_id, value in own:
            held = int(value["allocated_count"]) - int(value["freed_count"])
            size = int(value["allocated_bytes"]) // int(value["allocated_count"])
            age_ns = (ages_ns or {}).get(stack_id, 10 * S)
            records += [(size, NOW - age_ns, stack_id, size - 8)] * held
        sections[section] = Snapshot(
            time_ns=NOW,
            generation=0,
            addresses=np.arange(len(records), dtype=np.uint64),
            records=np.array(records, dtype=KERNEL_ALLOCATION),
            site_ids=np.array([stack_id for stack_id, _ in own], dtype=np.uint64),
            sites=np.array([value for _, value in own], dtype=KERNEL_SITE),
            losses=np.zeros(KERNEL_LOSS_KINDS, dtype=np.uint64),
        )
    return KernelSnapshot(
        sections=sections,
        recursion_misses=others.get("recursion_misses", 0),
        older_releases=dict.fromkeys(sections, 0),
        slab_caches=others.get("slab_caches", {}),
    )


def build(what: KernelSnapshot, plan: KernelPlan | None = None, **report_options: Any) -> Report:
    options = KernelOptions(target=KernelTarget(pages=True), report=ReportOptions(**report_options))
    plan = plan or KernelPlan(sections=(Section.SLAB, Section.PAGES))
    return KernelReportBuilder(options, plan, stack_of).build(what, KERNEL)


def test_sections_are_never_added_up() -> None:
    report = build(
        snapshot(
            site(2, 10, 64, object_size=64),
            site(3, 5, 1184, cache=b"ext4_inode_cache"),
            site(4, 2, 4096, section=Section.PAGES),
        )
    )
    assert (report.section, report.outstanding.bytes) == ("slab", 10 * 64 + 5 * 1184)
    (pages,) = report.sections
    assert (pages.section, pages.outstanding.bytes) == ("pages", 8192)
    assert [s.cache for s in report.sites] == ["ext4_inode_cache", "kmalloc-64"]
    assert [s.cache for s in pages.sites] == [None]


def test_one_stack_with_two_caches_is_two_sites() -> None:
    report = build(snapshot(site(2, 1, 64, object_size=64), site(3, 1, 96, object_size=96)))
    assert len({s.id for s in report.sites}) == 2
    assert len({s.stack.frames for s in report.sites}) == 1 or len(report.sites) == 2


def test_requested_bytes_follow_the_age_filter() -> None:
    what = snapshot(
        site(2, 10, 64, object_size=64), site(4, 3, 64, object_size=64), ages_ns={4: S // 10}
    )
    (old,) = build(what).sites
    assert (old.bytes, old.requested_bytes) == (640, 560)
    assert len(build(what, older_ms=0).sites) == 2
    combined = {s.bytes: s.requested_bytes for s in build(what, combined_only=True).sites}
    assert combined == {640: 560, 192: 168}


@pytest.mark.parametrize(
    ("fields", "caches", "doubt"),
    [
        ({"object_size": 64}, {}, None),
        (
            {"object_size": 64, "unseen_frees": 7},
            {},
            "7 of its blocks were freed without being seen",
        ),
        ({"cache": b"maple_node"}, {}, "often freed in bulk"),
        (
            {"cache": b"dentry"},
            {"dentry": SlabCache("dentry", 4, 192)},
            "10 objects of dentry look outstanding, but only 4 are in use",
        ),
        ({"cache": b"dentry"}, {"dentry": SlabCache("dentry", 10, 192)}, None),
        (
            # A kmalloc cache is all those of its size together.
            {"object_size": 64},
            {
                "kmalloc-64": SlabCache("kmalloc-64", 4, 64),
                "kmalloc-cg-64": SlabCache("kmalloc-cg-64", 4, 64),
                "msg_msg-64": SlabCache("msg_msg-64", 4, 64),
            },
            None,
        ),
    ],
)
def test_doubts(fields: dict[str, Any], caches: dict[str, SlabCache], doubt: str | None) -> None:
    (found,) = build(snapshot(site(2, 10, 64, **fields), slab_caches=caches)).sites
    assert (found.unconfirmed is None) == (doubt is None)
    assert doubt is None or doubt in (found.unconfirmed or "")


def test_bulk_frees_that_are_seen_raise_no_doubt() -> None:
    plan = KernelPlan(sections=(Section.SLAB, Section.PAGES), sees_bulk_frees=True)
    (found,) = build(snapshot(site(2, 10, 64, cache=b"maple_node")), plan).sites
    assert found.unconfirmed is None


def test_contexts() -> None:
    (found,) = build(snapshot(site(2, 1, 64, object_size=64, context=Context.SOFTIRQ))).sites
    assert found.context == "softirq"


def test_the_kernels_own_account(monkeypatch: pytest.MonkeyPatch) -> None:
    options = KernelOptions(target=KernelTarget(pages=True))
    builder = KernelReportBuilder(
        options, KernelPlan(sections=(Section.SLAB, Section.PAGES)), stack_of
    )
    first = {"kmalloc-64": SlabCache("kmalloc-64", 100, 64)}
    monkeypatch.setattr("leaktrace.kernel.report_builder.read_slab_caches", lambda: first)
    builder.start_clock()
    what = snapshot(
        site(2, 10, 64, object_size=64),
        site(4, 1, 65536, object_size=65536),  # pages, no slab's object
        slab_caches={"kmalloc-64": SlabCache("kmalloc-64", 112, 64)},
    )
    slab = builder.build(what, KERNEL).slab
    assert slab is not None
    assert (slab.grown_bytes, slab.tracked_bytes) == (12 * 64, 10 * 64)


def test_losses_say_what_they_are() -> None:
    counters = np.arange(1, KERNEL_LOSS_KINDS + 1, dtype=np.uint64)
    losses = {loss.name: loss for loss in describe_kernel_losses(counters, 77, Limits())}
    made_up_for = int(counters[KernelLossKind.MADE_UP_FOR])
    assert losses["recursion_misses"].count == 77 - made_up_for
    assert losses["allocations"].count == 1
    assert losses["allocations"].bytes == 2
    # Every counter is shown once: bytes with their allocations, and what was made up
    # for with what was missed.
    counts = sorted(loss.count for loss in losses.values() if loss.name != "recursion_misses")
    assert counts == [1, *range(3, made_up_for)]
