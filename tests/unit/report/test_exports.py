"""Every figure of every export is that of the report, whatever the names are."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from read_exports import (
    Figures,
    MassifNode,
    read_folded,
    read_massif,
    read_pprof,
    read_speedscope,
)
from rendered_samples import REPORTS
from sample_reports import BUSY, KERNEL

from leaktrace.analysis.quantities import Quantity
from leaktrace.memory import RegionBytes
from leaktrace.model import Report, ThreadStacks
from leaktrace.printable import printable
from leaktrace.report.export import EXPORTS, ExportOptions
from leaktrace.site import Frame, ProcessShare, Site, SourceLine, Stack, StackEnd, Total

NAMES = st.one_of(
    st.sampled_from(
        [
            "main",
            "operator new(unsigned long)",
            "\x1b[31mred\x1b[0m",
            "<script>alert(1)</script>&amp;",
            "a;b;c",
            "ends in a figure 123",
            "ends in 1.5 2.",
            "quo\"te's\\",
            "two\nlines\r\n 5",
            "nul\0byte",
            "#comment {lambda()#1}",
            " spaces ",
            " ",
            "12",
            "x" * 100_000,
            "\ud800\udfff",
            b"caf\xe9".decode("utf-8", "surrogateescape"),
            "größe_漢字\u202e",
            "",
        ]
    ),
    st.text(max_size=12),
)
FRAMES = st.builds(
    Frame,
    address=st.integers(0, (1 << 64) - 1),
    function=st.none() | NAMES,
    module=st.none() | NAMES,
    module_offset=st.none() | st.integers(0, (1 << 64) - 1),
    build_id=st.none() | NAMES,
    source=st.none() | st.builds(SourceLine, NAMES, st.integers(0, 1 << 31)),
    inlined=st.booleans(),
)
FIGURE = st.integers(0, 1 << 50)
SITES = st.builds(
    Site,
    id=st.just("0123456789abcdef"),
    stack=st.builds(Stack, st.lists(FRAMES, max_size=5).map(tuple), st.sampled_from(StackEnd)),
    bytes=FIGURE,
    count=FIGURE,
    allocated_bytes=FIGURE,
    allocated_count=FIGURE,
    freed_bytes=FIGURE,
    freed_count=FIGURE,
    cache=st.none() | NAMES,
    processes=st.lists(st.builds(ProcessShare, st.integers(1, 9), FIGURE, FIGURE), max_size=2).map(
        tuple
    ),
)


@st.composite
def reports(draw: st.DrawFn) -> Report:
    """With sections, and recursion: stacks that repeat frames of others."""
    shared = draw(st.lists(SITES, max_size=3))
    twice = [
        replace(site, stack=Stack(site.stack.frames * 2, StackEnd.TRUNCATED)) for site in shared
    ]
    sections = tuple(
        replace(BUSY, sites=tuple(sites), section=name, target=KERNEL.target)
        for name, sites in draw(st.lists(st.tuples(NAMES, st.lists(SITES, max_size=2)), max_size=2))
    )
    in_threads = draw(st.lists(SITES, max_size=1))
    stacks = ThreadStacks(RegionBytes(), tuple(in_threads), len(in_threads))
    return replace(
        draw(st.sampled_from([BUSY, KERNEL])),
        sites=(*shared, *draw(st.lists(SITES, max_size=3)), *twice),
        sections=sections,
        thread_stacks=stacks if in_threads else None,
    )


# The figures of HTML pages are compared in a browser, in tests/unit/report/export.
FILES = [name for name in EXPORTS if name not in ("flamegraph", "html")]


def written(name: str, *those: Report, quantity: Quantity = Quantity.IN_USE) -> bytes:
    export, output = EXPORTS[name].create(ExportOptions(quantity)), io.BytesIO()
    for report in those:
        export.add(report)
    export.write(output)
    return output.getvalue()


def name_of(frame: Frame) -> str:
    if frame.function:
        return printable(frame.function)
    if frame.module is None:
        return hex(frame.address)
    file = frame.module.rstrip("/").split("/")[-1] or frame.module
    if file.startswith("["):
        file = file.removeprefix("[").removesuffix("]")
    if frame.module_offset is None:
        return f"[{printable(file)}] {frame.address:#x}"
    return f"[{printable(file)}+{frame.module_offset:#x}]"


def expected(report: Report, quantity: Quantity, *, with_zeros: bool = False) -> Figures:
    figures: Counter[tuple[str, ...]] = Counter()
    in_threads = () if report.thread_stacks is None else report.thread_stacks.sites
    for site in (*report.sites, *in_threads):
        stack = tuple(name_of(frame) for frame in reversed(site.stack.frames))
        figures[stack or ("[stack not known]",)] += quantity.of(site)
    return {stack: figure for stack, figure in figures.items() if figure or with_zeros}


def without_zeros(figures: Figures) -> Figures:
    return {stack: figure for stack, figure in figures.items() if figure}


FAST = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
TYPES = {
    "alloc_objects": Quantity.ALLOCATED_BLOCKS,
    "alloc_space": Quantity.ALLOCATED,
    "inuse_objects": Quantity.IN_USE_BLOCKS,
    "inuse_space": Quantity.IN_USE,
}


@FAST
@given(reports())
def test_pprof(report: Report) -> None:
    profile = read_pprof(written("pprof", report))
    assert profile.default == "inuse_space"
    for name, quantity in TYPES.items():
        assert without_zeros(profile.figures[name]) == expected(report, quantity)
        assert profile.units[name] == ("bytes" if quantity.is_bytes else "count")
    of_sections = list(profile.figures)[len(TYPES) :]
    assert len(of_sections) == len(TYPES) * len(report.sections)
    for number, section in enumerate(report.sections):
        names = of_sections[number * len(TYPES) :]
        for name, (suffix, quantity) in zip(names, TYPES.items(), strict=False):
            assert name.endswith(f"_{suffix}")
            assert without_zeros(profile.figures[name]) == expected(section, quantity)
    for text in (*profile.figures, *profile.comments):
        assert text.isprintable()


@FAST
@given(reports(), st.sampled_from(Quantity))
def test_folded(report: Report, quantity: Quantity) -> None:
    def escaped(name: str) -> str:
        name = name.replace(";", "\\x3b")
        head, space, tail = name.rpartition(" ")
        is_figure = bool(space) and bool(tail) and not tail.strip("0123456789.")
        return f"{head}\\x20{tail}" if is_figure else name

    content = written("folded", report, quantity=quantity)
    wanted: Counter[tuple[str, ...]] = Counter()
    for stack, figure in expected(report, quantity).items():
        wanted[tuple(map(escaped, stack))] += figure
    assert read_folded(content) == wanted
    assert content.decode().replace("\n", "").isprintable()


@FAST
@given(reports())
def test_speedscope(report: Report) -> None:
    profiles = read_speedscope(written("speedscope", report))
    for quantity in Quantity:
        assert profiles.pop(quantity.in_words, {}) == expected(report, quantity)
    for section in report.sections:
        for quantity in Quantity:
            if wanted := expected(section, quantity):
                assert profiles.pop(next(iter(profiles))) == wanted
    assert not profiles


@FAST
@given(st.lists(reports(), min_size=1, max_size=4))
@example([REPORTS["quiet"]])
@example([REPORTS["busy"]] * 40)
def test_massif(those: list[Report]) -> None:
    snapshots = read_massif(written("massif", *those))
    held = [sum(expected(report, Quantity.IN_USE).values()) for report in those]
    assert [snapshot.bytes for snapshot in snapshots] == held
    assert [snapshot.time for snapshot in snapshots] == [one.elapsed_s * 1000 for one in those]
    peaks = [number for number, one in enumerate(snapshots) if one.kind == "peak"]
    assert peaks == [held.index(max(held))]
    assert snapshots[-1].tree is not None
    assert sum(snapshot.tree is not None for snapshot in snapshots) <= 10
    for snapshot, report in zip(snapshots, those, strict=True):
        if snapshot.tree is not None:
            assert snapshot.tree.bytes == snapshot.bytes
            check_tree(snapshot.tree, (), expected_paths(report), snapshot.bytes)


Paths = dict[tuple[str, ...], int]


def expected_paths(report: Report) -> Paths:
    """The bytes at each path from a leaf to a caller."""

    def text(frame: Frame) -> str:
        place = "" if frame.module is None else f" (in {printable(frame.module)})"
        if frame.source is not None:
            place = f" ({printable(frame.source.file)}:{frame.source.line})"
        return f"{frame.address:#x}: {name_of(frame)}{place}".replace("#", "\\x23")

    paths: Counter[tuple[str, ...]] = Counter()
    in_threads = () if report.thread_stacks is None else report.thread_stacks.sites
    for site in (*report.sites, *in_threads):
        texts = tuple(map(text, site.stack.frames)) or ("0x0: [stack not known]",)
        for length in range(1, len(texts) + 1):
            paths[texts[:length]] += site.bytes
    return {path: held for path, held in paths.items() if held}


def check_tree(node: MassifNode, path: tuple[str, ...], paths: Paths, total: int) -> None:
    """The callers of a node: large ones with their bytes, small ones added up."""
    wanted = {
        one[-1]: held for one, held in paths.items() if one[:-1] == path and len(one) > len(path)
    }
    small = {text: held for text, held in wanted.items() if held * 1000 < total}
    shown = {child.text: child for child in node.children}
    assert len(shown) == len(node.children)
    if small:
        places = "1 place" if len(small) == 1 else f"{len(small)} places, all"
        rest = shown.pop(f"in {places} below massif's threshold (0.10%)")
        assert (rest.bytes, rest.children) == (sum(small.values()), [])
    assert {text: child.bytes for text, child in shown.items()} == {
        text: held for text, held in wanted.items() if text not in small
    }
    for text, child in shown.items():
        check_tree(child, (*path, text), paths, total)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("sample", REPORTS)
def test_sums_are_those_of_the_sites(name: str, sample: str) -> None:
    """Of all kinds of reports: sampled, of the kernel, of several processes, without sizes…"""
    report = REPORTS[sample]
    content = written(name, report)
    threads = () if report.thread_stacks is None else report.thread_stacks.sites
    total = sum(site.count if report.is_counted else site.bytes for site in report.sites + threads)
    if name == "pprof":
        profile = read_pprof(content)
        assert profile.default == ("inuse_objects" if report.is_counted else "inuse_space")
        assert sum(profile.figures[profile.default].values()) == total
    elif name == "folded":
        assert sum(read_folded(content).values()) == total
    elif name == "speedscope":
        quantity = Quantity.IN_USE_BLOCKS if report.is_counted else Quantity.IN_USE
        assert sum(read_speedscope(content)[quantity.in_words].values()) == total
    else:
        assert read_massif(content)[-1].bytes == total


@pytest.mark.parametrize("name", FILES)
def test_a_file_without_reports_is_valid(name: str) -> None:
    content = written(name)
    if name == "pprof":
        assert set(read_pprof(content).figures) == set(TYPES)
    elif name == "speedscope":
        assert read_speedscope(content) == {}
    elif name == "massif":
        assert read_massif(content) == []
    else:
        assert content == b""


def test_pprof_addresses_are_those_of_calls() -> None:
    """Return addresses minus one, but not after a signal, which interrupts no call."""
    frames = (
        Frame(0x1000, "handler"),
        Frame(0x2000, "<signal handler called>"),
        Frame(0x3000, "inlined", inlined=True),
        Frame(0x3000, "interrupted"),
        Frame(0x4000, "main"),
    )
    site = replace(BUSY.sites[0], stack=Stack(frames))
    profile = read_pprof(written("pprof", replace(BUSY, sites=(site,))))
    assert list(profile.addresses.values()) == [[0xFFF, 0x1FFF, 0x3000, 0x3FFF]]


def test_pprof_labels() -> None:
    assert read_pprof(written("pprof", BUSY)).labels == [{"pid": 4242}] * 3
    for labels in read_pprof(written("pprof", KERNEL)).labels:
        assert "pid" not in labels
        assert labels["context"] in ("process", "softirq")
    several = read_pprof(written("pprof", REPORTS["family"]))
    shares = [share for site in REPORTS["family"].sites for share in site.processes]
    assert {share.pid for share in shares} == {one["pid"] for one in several.labels if one}


def test_pprof_figures_that_are_too_large_are_cut_off_and_it_says_so() -> None:
    site = replace(BUSY.sites[0], bytes=1 << 64)
    profile = read_pprof(written("pprof", replace(BUSY, sites=(site,))))
    assert list(profile.figures["inuse_space"].values()) == [(1 << 63) - 1]
    assert any("larger than this format can express" in one for one in profile.comments)


@pytest.mark.parametrize("sample", ["weighted", "busy", "suppressed", "incomplete"])
def test_losses_and_estimates_are_told(sample: str) -> None:
    report = replace(REPORTS[sample], younger=Total(10, 2))
    comments = read_pprof(written("pprof", report)).comments
    described = written("massif", report).decode().splitlines()[0]
    for loss in report.losses:
        assert any(f"{loss.count:,} " in one for one in comments) or not loss.count
    assert any("estimates" in one for one in comments) == report.is_estimate
    assert any("10 bytes in 2 blocks younger than" in one for one in comments)
    for one in comments[2:]:
        assert one.replace("#", "\\x23") in described
