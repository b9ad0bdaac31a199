"""Reports made by Hypothesis: small programs, of which each stack is a path."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import strategies as st

from leaktrace.analysis.site_id import site_id
from leaktrace.model import Report, TargetInfo
from leaktrace.site import Frame, ProcessShare, Site, SourceLine, Stack, StackEnd, Total

LIBRARY, PROGRAM, JIT = "/usr/lib/libshop.so.1.2", "/opt/shop/bin/shop", None
NAMES = ("main", "serve", "parse", "Cart::add", "grow.constprop.0", "run()::{lambda()#1}::call")
BASE_ADDRESS = 0x7F0000000000


def frames() -> st.SearchStrategy[Frame]:
    """A frame of a program, of its library, or without a file."""

    def made(number: int, module: str | None, named: bool, lines: bool) -> Frame:
        offset = 0x1000 + 16 * number
        return Frame(
            BASE_ADDRESS + offset,
            NAMES[number % len(NAMES)] if named or module is None else None,
            number,
            module,
            None if module is None else offset,
            None if module is None else f"build-of-{module}",
            SourceLine(f"/build/{number % 2}.c", number + 1) if lines else None,
        )

    modules = st.sampled_from((LIBRARY, PROGRAM, PROGRAM, JIT))
    return st.builds(made, st.integers(0, 17), modules, st.booleans(), st.booleans())


@st.composite
def sites(draw: st.DrawFn) -> Site:
    """A site; what it holds is what it has allocated and not freed."""
    path = draw(st.lists(frames(), max_size=5))
    repeated = draw(st.integers(1, 3))  # a recursion
    stack = Stack(tuple(path * repeated), StackEnd.COMPLETE if path else StackEnd.LOST)
    count, freed = draw(st.integers(0, 50)), draw(st.integers(0, 50))
    size = draw(st.integers(0, 1 << 20))
    shares = draw(st.lists(st.integers(0, count), max_size=2)) if count else []
    return Site(
        site_id(stack.frames),
        stack,
        count * size,
        count,
        allocated_bytes=(count + freed) * size,
        allocated_count=count + freed,
        freed_bytes=freed * size,
        freed_count=freed,
        processes=tuple(
            ProcessShare(100 + at, share // 2 * size, share // 2) for at, share in enumerate(shares)
        ),
    )


@st.composite
def reports(draw: st.DrawFn) -> Report:
    """A report with all its sites, and some memory at none."""
    listed = draw(st.lists(sites(), max_size=8, unique_by=lambda site: site.id))
    younger, unknown = (
        Total(count * 16, count) for count in draw(st.tuples(st.integers(0, 9), st.integers(0, 9)))
    )
    return Report(
        time=datetime(2026, 11, 24, 6, 0, 0, tzinfo=UTC),
        elapsed_s=float(draw(st.integers(1, 10_000))),
        number=1,
        final=False,
        reason="",
        target=TargetInfo(4242, "shop"),
        outstanding=Total(
            sum(s.bytes for s in listed) + younger.bytes + unknown.bytes,
            sum(s.count for s in listed) + younger.count + unknown.count,
        ),
        younger=younger,
        older_ms=500,
        site_count=len(listed),
        sites=tuple(listed),
        top=len(listed),
    )


def moved(report: Report, by: int) -> Report:
    """The same as another process of the same binaries would give it: other addresses."""
    return _changed(report, lambda frame: replace(frame, address=frame.address + by))


def rebuilt(report: Report, module: str) -> Report:
    """The same after `module` was built anew: other offsets, lines, clones and build ID."""

    def anew(frame: Frame) -> Frame:
        if frame.module != module or frame.module_offset is None:
            return frame
        source = frame.source
        return replace(
            frame,
            address=frame.address + 0x40,
            module_offset=frame.module_offset + 0x40,
            build_id=f"new-{frame.build_id}",
            source=source and SourceLine(f"/other{source.file}", source.line + 1),
            function=frame.function
            and frame.function.replace("constprop.0", "isra.3").replace("#1}", "#2}"),
        )

    return _changed(report, anew)


def _changed(report: Report, anew: object) -> Report:
    assert callable(anew)
    listed = []
    for site in report.sites:
        stack = replace(site.stack, frames=tuple(anew(frame) for frame in site.stack.frames))
        listed.append(replace(site, id=site_id(stack.frames), stack=stack))
    return replace(report, sites=tuple(listed))
