"""Figures for people: 12.0 MiB, +512.0 KiB, 4m10s, 51,204, 49%.

They are plain ASCII, so a figure is as many columns wide as it has characters.
"""

from __future__ import annotations

import re
from math import ceil

from leaktrace.model import Loss, Report

_SIZE_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")

# The noun that a loss counts: "allocations not recorded", "allocation calls that …".
_PLURAL = re.compile(r"^(\w+ )??(\w*[^\Ws])s\b")

_US_NS = 1_000
_MS_NS = 1_000_000
_S_NS = 1_000 * _MS_NS
_MINUTE_S = 60
_HOUR_S = 60 * _MINUTE_S
_DAY_S = 24 * _HOUR_S


def size(size_bytes: int) -> str:
    """Bytes with a binary prefix and one decimal: "512 B", "12.0 MiB", "-3 B"."""
    sign = "-" if size_bytes < 0 else ""
    magnitude: float = abs(size_bytes)
    if magnitude < 1024:
        return f"{sign}{magnitude:.0f} B"
    magnitude /= 1024
    unit = 0
    # Compare the printed value: 1023.96 KiB must not become "1024.0 KiB".
    while round(magnitude, 1) >= 1024 and unit + 1 < len(_SIZE_UNITS):
        magnitude /= 1024
        unit += 1
    return f"{sign}{magnitude:.1f} {_SIZE_UNITS[unit]}"


def size_change(size_bytes: int) -> str:
    """A difference of bytes, always with a sign: "+512.0 KiB", "-3 B", "+0 B"."""
    return size(size_bytes) if size_bytes < 0 else f"+{size(size_bytes)}"


def number(count: int) -> str:
    """A count with thousands separated: "51,204"."""
    return f"{count:,}"


def counted(count: int, noun: str) -> str:
    """A count and what is counted: "1 allocation", "51,204 allocations"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def loss_in_words(loss: Loss) -> str:
    """What was lost and how often: "3 stacks not stored: …", "1 stack not stored: …"."""
    meaning = loss.meaning
    if loss.count == 1:
        meaning = _PLURAL.sub(r"\1\2", meaning, count=1)
    return f"{number(loss.count)} {meaning}"


def share(part: int, whole: int) -> str:
    """`part` of `whole` in per cent; "" if `part` isn't within `whole`.

    "0%" means nothing and "100%" means everything: what rounds to them is "<1%" and ">99%".
    """
    if whole <= 0 or part < 0 or part > whole:
        return ""
    percent = 100 * part / whole
    if 0 < percent < 1:
        return "<1%"
    if 99 < percent < 100:
        return ">99%"
    return f"{percent:.0f}%"


def age(age_ns: int) -> str:
    """A duration in nanoseconds, in its two largest units: "820ms", "12.3s", "4m10s", "2d4h"."""
    age_ns = max(age_ns, 0)
    if age_ns < _S_NS:
        return f"{age_ns // _MS_NS}ms"
    seconds = age_ns // _S_NS
    if seconds < _MINUTE_S:
        return f"{seconds}.{age_ns % _S_NS // (_S_NS // 10)}s"
    if seconds < _HOUR_S:
        return f"{seconds // _MINUTE_S}m{seconds % _MINUTE_S:02}s"
    if seconds < _DAY_S:
        return f"{seconds // _HOUR_S}h{seconds % _HOUR_S // _MINUTE_S:02}m"
    return f"{seconds // _DAY_S}d{seconds % _DAY_S // _HOUR_S}h"


def duration(duration_ns: int) -> str:
    """A duration, rounded up, from nanoseconds to days: "2.1 µs", "17 ms", "34.4 s", "1m09s"."""
    if duration_ns < _US_NS:
        return f"{duration_ns} ns"
    if duration_ns <= 999 * _US_NS:
        return f"{_rounded_up(duration_ns, _US_NS)} µs"
    if duration_ns <= 999 * _MS_NS:
        return f"{_rounded_up(duration_ns, _MS_NS)} ms"
    if duration_ns <= 59 * _S_NS:
        return f"{_rounded_up(duration_ns, _S_NS)} s"
    return age(ceil(duration_ns / _S_NS) * _S_NS)


def _rounded_up(duration_ns: int, unit_ns: int) -> str:
    """In a unit; with one decimal below ten."""
    if duration_ns > 9.9 * unit_ns:
        return f"{ceil(duration_ns / unit_ns)}"
    return f"{ceil(10 * duration_ns / unit_ns) / 10:g}"


def elapsed(elapsed_s: float) -> str:
    """Seconds since tracing began: like `age`, but "15.0 s" below a minute."""
    if elapsed_s < _MINUTE_S:
        return f"{max(elapsed_s, 0.0):.1f} s"
    return age(int(elapsed_s * _S_NS))


def interval(interval_s: float) -> str:
    """Seconds between two reports: "0.2 s", "5 s", "1m30s", "4h48m"."""
    if interval_s < _MINUTE_S:
        return f"{interval_s:g} s"
    return age(int(interval_s * _S_NS))


def period(period_s: float) -> str:
    """A length of time that somebody chose: "90 s", "5 min", "1 h"."""
    for unit, seconds in (("h", _HOUR_S), ("min", _MINUTE_S)):
        if period_s >= seconds and period_s % seconds == 0:
            return f"{period_s / seconds:.0f} {unit}"
    return f"{period_s:g} s"


_TIMES = (("s", 1), ("min", _MINUTE_S), ("h", _HOUR_S), ("day", _DAY_S))


def size_rate(
    bytes_per_s: float, error_bytes_per_s: float, largest_per_s: float | None = None
) -> str:
    """A rate and its standard error, per second, minute, hour or day: "+1.8 MiB/min ±0.1". The
    unit of time is that of the largest of several rates."""
    # The shortest time in which it is at least a few KiB: slow leaks are known by the hour.
    name, seconds = next(
        (one for one in _TIMES if abs(largest_per_s or bytes_per_s) * one[1] >= 16 * 1024),
        _TIMES[2],
    )
    value, _, unit = size(round(bytes_per_s * seconds)).partition(" ")
    one_unit = 1024 ** (["B", *_SIZE_UNITS].index(unit))
    error = error_bytes_per_s * seconds / one_unit
    shown = f"{error:.0f}" if unit == "B" else f"{max(error, 0.1 if error else 0.0):.1f}"
    sign = "" if value.startswith("-") else "+"
    return f"{sign}{value} {unit}/{name} ±{shown}"


def count_rate(per_s: float, error_per_s: float, largest_per_s: float | None = None) -> str:
    """The same for things without sizes: "+12.0/min ±0.4"."""
    name, seconds = next(
        (one for one in _TIMES if abs(largest_per_s or per_s) * one[1] >= 1), _TIMES[3]
    )
    return f"{per_s * seconds:+,.1f}/{name} ±{error_per_s * seconds:.1f}"


def sample_in_words(report: Report) -> str:
    """Which share of the allocations is recorded, in words."""
    if report.sample_bytes is not None:
        return f"about 1 allocation per {size(report.sample_bytes)} is recorded"
    return f"1 allocation in {report.sample_rate:,} is recorded, chosen at random"
