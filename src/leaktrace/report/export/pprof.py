"""--format pprof: profile.proto, compressed by gzip, for `go tool pprof` and what else reads it.

The sample types are those of Go's heap profiles: alloc_objects, alloc_space, inuse_objects and
inuse_space, which is the default. A section has types of its own (`pages_inuse_space`): figures of
two sections must not be added up. What has no sizes has types in objects only.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from leaktrace import __version__
from leaktrace.analysis.quantities import Quantity
from leaktrace.analysis.views.parts import sites_of
from leaktrace.errors import EnvironmentUnfitError
from leaktrace.model import Measure, Report
from leaktrace.printable import printable
from leaktrace.report.export.remarks import remarks, title
from leaktrace.report.export.sites import sections_of
from leaktrace.site import Site

if TYPE_CHECKING:
    from leaktrace.report.export import ExportOptions
    from leaktrace.report.export.pprof_code import Code

_TYPES = {
    Quantity.ALLOCATED_BLOCKS: "alloc_objects",
    Quantity.ALLOCATED: "alloc_space",
    Quantity.IN_USE_BLOCKS: "inuse_objects",
    Quantity.IN_USE: "inuse_space",
}
_GOROUTINES = {Quantity.IN_USE_BLOCKS: "goroutine"}
_LARGEST = (1 << 63) - 1
_TASK_COMM_LENGTH = 15  # the kernel cuts names of processes

_SCOPES = {
    Measure.GO_HEAP: "alloc_objects and alloc_space: since the profile is on, which is usually "
    "since the program began",
    Measure.GOROUTINES: "",
}
_USUAL_SCOPE = (
    "alloc_objects and alloc_space: since tracing began, of sites that still hold memory; "
    "what has been freed completely has no site"
)


def create(_options: ExportOptions) -> PprofExport:
    """Raises EnvironmentUnfitError without the package protobuf."""
    try:
        import google.protobuf  # noqa: F401, PLC0415
    except ImportError:
        raise EnvironmentUnfitError(
            "the format pprof needs the Python package protobuf, which is not installed",
            "install it for the Python that runs leaktrace: pip install protobuf",
        ) from None
    return PprofExport()


class PprofExport:
    """The last report, with all quantities."""

    def __init__(self) -> None:
        self._last: Report | None = None

    def add(self, report: Report) -> None:
        self._last = report

    def write(self, output: BinaryIO) -> None:
        profile = _Builder().build(self._last)
        output.write(gzip.compress(profile.SerializeToString(), compresslevel=6, mtime=0))


@dataclass(frozen=True)
class _Column:
    """A sample type, and where its values come from."""

    section: int  # 0: the report itself
    quantity: Quantity
    name: str


class _Builder:
    def __init__(self) -> None:
        from leaktrace.report.export.pprof_code import Code  # noqa: PLC0415
        from leaktrace.report.export.pprof_schema import new_profile  # noqa: PLC0415

        self._profile = new_profile()
        self._code: Code = Code(self._profile)
        self._clamped = 0

    def build(self, report: Report | None) -> Any:  # noqa: ANN401
        """The message of a report; None: an empty one."""
        text = self._code.text
        parts = [] if report is None else [("", report), *sections_of(report)]
        columns = list(_columns(parts)) or [
            _Column(0, quantity, name) for quantity, name in _TYPES.items()
        ]
        profile = self._profile
        for column in columns:
            unit = "bytes" if column.quantity.is_bytes else "count"
            profile.sample_type.add(type=text(column.name), unit=text(unit))
        default = [column.name for column in columns if column.section == 0][-1]
        profile.default_sample_type = text(default)
        is_of_goroutines = report is not None and report.measure is Measure.GOROUTINES
        profile.period_type.type = text("goroutine" if is_of_goroutines else "space")
        profile.period_type.unit = text("count" if is_of_goroutines else "bytes")
        profile.period = self._clamp(1 if report is None else report.sample_bytes or 1)
        for number, (_, part) in enumerate(parts):
            here = [(at, one.quantity) for at, one in enumerate(columns) if one.section == number]
            for site in sites_of(part):
                self._add(site, part, here, len(columns))
        if report is not None:
            profile.time_nanos = round(report.time.timestamp() * 1e9)
            profile.duration_nanos = round(report.elapsed_s * 1e9)
            self._code.put_first(lambda path: _is_program(path, report.target.command))
        profile.comment.extend(text(one) for one in self._comments(report))
        return self._code.finished()

    def _add(
        self, site: Site, part: Report, here: Sequence[tuple[int, Quantity]], width: int
    ) -> None:
        locations = self._code.locations(site.stack)
        for pid, size, figures in _shares(site, part):
            sample = self._profile.sample.add()
            sample.location_id.extend(locations)
            values = [0] * width
            for at, quantity in here:
                values[at] = self._clamp(figures[quantity])
            sample.value.extend(values)
            if pid is not None:
                sample.label.add(key=self._code.text("pid"), num=self._clamp(pid))
            if size is not None:  # as Go calls it
                sample.label.add(key=self._code.text("bytes"), num=self._clamp(size))
            named = ("cache", site.cache), ("context", site.context), ("state", site.state)
            for key, value in named:
                if value is not None:
                    label = self._code.text(key), self._code.text(printable(value))
                    sample.label.add(key=label[0], str=label[1])

    def _clamp(self, value: int) -> int:
        """The format has 63 bits. Sizes can have more: arguments that --pair takes for sizes."""
        if -_LARGEST <= value <= _LARGEST:
            return value
        self._clamped += 1
        return _LARGEST if value > 0 else -_LARGEST

    def _comments(self, report: Report | None) -> Iterator[str]:
        yield f"leaktrace {__version__}" + ("" if report is None else f": {title(report)}")
        scope = _USUAL_SCOPE if report is None else _SCOPES.get(report.measure, _USUAL_SCOPE)
        if scope:
            yield scope
        if report is not None:
            yield from remarks(report)
        if self._clamped:
            yield f"{self._clamped} figures are larger than this format can express, and cut off"


def _columns(parts: Iterable[tuple[str, Report]]) -> Iterator[_Column]:
    """Sections without sites have types, too: pprof compares only files of the same types."""
    taken: set[str] = set()
    for number, (section, part) in enumerate(parts):
        prefix = _prefix(section, taken) if number else ""
        is_of_goroutines = part.measure is Measure.GOROUTINES
        for quantity, name in (_GOROUTINES if is_of_goroutines else _TYPES).items():
            if quantity.is_bytes and part.is_counted:
                continue
            yield _Column(number, quantity, prefix + name)


def _prefix(section: str, taken: set[str]) -> str:
    """The name of a section as a part of an option's value, with nothing for a shell to take."""
    plain = prefix = re.sub(r"[^\w:.-]+", "_", section).strip("_") or "section"
    number = 1
    while prefix in taken:
        number += 1
        prefix = f"{plain}_{number}"
    taken.add(prefix)
    return f"{prefix}_"


def _shares(
    site: Site, part: Report
) -> Iterator[tuple[int | None, int | None, dict[Quantity, int]]]:
    """The figures of a site by process, or by size of the objects (as Go's own profile has them).
    What it has allocated isn't known by process, so several have a rest without a process."""
    figures = {quantity: quantity.of(site) for quantity in _TYPES}
    if not site.processes:
        is_one = part.target.kind != "kernel" and len(part.target.pids) <= 1
        pid = part.target.pid if is_one else None
        for one in site.object_sizes:
            yield (
                pid,
                one.size_bytes,
                {
                    Quantity.ALLOCATED_BLOCKS: one.allocated_count,
                    Quantity.ALLOCATED: one.allocated_bytes,
                    Quantity.IN_USE_BLOCKS: one.in_use_count,
                    Quantity.IN_USE: one.in_use_bytes,
                },
            )
        if not site.object_sizes:
            yield pid, None, figures
        return
    for share in site.processes:
        held = {Quantity.IN_USE: share.bytes, Quantity.IN_USE_BLOCKS: share.count}
        yield share.pid, None, {quantity: held.get(quantity, 0) for quantity in _TYPES}
        for quantity, value in held.items():
            figures[quantity] -= value
    if any(figures.values()):
        yield None, None, figures


def _is_program(path: str, command: str) -> bool:
    """Whether a file is the target's program, by its name."""
    return PurePosixPath(path).name[:_TASK_COMM_LENGTH] == command[:_TASK_COMM_LENGTH]
