"""Where a Go program allocates, in the text report of `leaktrace go --go-sample-refills`.

allocation rates: 12.3 MiB/s, sampled from the allocator's refills for 15.0 s
  shows what is allocated, not what is still in use
…
8.2 MiB/s allocated   66%   now 8.0 MiB/s   objects of 1.0 KiB   12,345 samples
    main.task                               /src/main.go:12
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from leaktrace import units
from leaktrace.go_report import RefillLook, RefillSection, RefillSite
from leaktrace.report.go_rows import stack_lines
from leaktrace.report.layout import flowed, wrapped

_MUCH_MISSED = 0.02  # of what the runtime has counted
_FEW = 100  # samples


def refill_lines(section: RefillSection, width: int) -> Iterator[Text]:
    """The rates of the process, and of each site."""
    look = section.look
    yield Text()
    text = (
        f"{_rate(section.bytes_per_s)}, sampled from the allocator's refills for "
        f"{units.elapsed(look.elapsed_s)}"
    )
    yield from wrapped("allocation rates: ", text, width, "bold")
    yield from wrapped(
        "  ",
        "shows what is allocated, not what is still in use. A sample stands for all objects of "
        "its size since the last one: of functions that allocate the same size strictly in turns, "
        "one may stand for the others",
        width,
    )
    for text in _reservations(section, look):
        yield from wrapped("  ", text, width, "yellow")
    if not section.sites:
        yield from wrapped("  ", "nothing was sampled yet", width)
    for one in section.sites:
        yield Text()
        yield from flowed(_fields(one, section), width)
        if one.frames:
            yield from stack_lines(one.frames, width)
        else:
            yield from wrapped("    ", "its stack could not be read", width)
        if one.frames and not one.is_complete:
            yield from wrapped("    ", "... and more callers, which are not known", width)
    left = section.site_count - len(section.sites)
    if left > 0:
        yield Text()
        yield from wrapped("  ", f"... and {units.counted(left, 'other site')} (--top)", width)


def _fields(one: RefillSite, section: RefillSection) -> list[Text]:
    fields = [Text(f"{_rate(one.bytes_per_s)} allocated", "bold")]
    fields.append(Text(units.share(one.now.allocated_bytes, section.allocated_bytes)))
    if one.recent_bytes_per_s is not None:
        fields.append(Text(f"now {_rate(one.recent_bytes_per_s)}"))
    if one.object_bytes is None:
        fields.append(Text("objects of several sizes"))
    elif one.object_bytes:
        fields.append(Text(f"objects of {units.size(one.object_bytes)}"))
    else:
        fields.append(Text("objects over 32 KiB"))
    few = " only" if one.now.seen_count < _FEW else ""
    fields.append(Text(f"{units.counted(one.now.seen_count, 'sample')}{few}"))
    return fields


def _reservations(section: RefillSection, look: RefillLook) -> Iterator[str]:
    missed = look.runtime_bytes - section.allocated_bytes
    if abs(missed) > _MUCH_MISSED * look.runtime_bytes and not look.lost_bytes:
        yield (
            f"the sites have {units.size(section.allocated_bytes)} of the "
            f"{units.size(look.runtime_bytes)} that the Go runtime has counted: what is in use of "
            "a span when garbage is collected has no sample, and samples are estimates"
        )
    if look.thinned_count:
        yield (
            f"{units.counted(look.thinned_count, 'sample')} above the limit: not looked at, to "
            "spare the process; others stand for them"
        )
    if look.unknown_count:
        yield (
            f"{units.counted(look.unknown_count, 'refill')} left out: what was read of them "
            "made no sense"
        )
    if look.lost_count:
        yield (
            f"LOST: {units.counted(look.lost_count, 'sample')} of "
            f"{units.size(look.lost_bytes)}: there are too many stacks"
        )


def _rate(bytes_per_s: float) -> str:
    return f"{units.size(round(bytes_per_s))}/s"
