"""A site of a recording as it is in a report: with ages, and what needs no writing."""

from __future__ import annotations

from dataclasses import replace

from leaktrace.recording.fields import Fields, MalformedError
from leaktrace.recording.format import FREED, Object, usually_freed
from leaktrace.site import Site

_MOST_POWERS = 65


def as_json(site: Object) -> Object:
    """A site as it is in a report of `--format json`, but for what depends on the time."""
    shown = {key: value for key, value in site.items() if key != "lived"}
    for freed, allocated, held in FREED:
        if freed not in shown:
            shown[freed] = usually_freed(site, allocated, held)
    if "lived" in site:
        shown["lifetimes"] = _histogram(site, "lived", "upper_bounds_ns")
    if "sizes" in site:
        shown["sizes"] = _sizes(site)
    if "examples" in site:
        examples = Fields(site, "a site").items("examples")
        shown["examples"] = [
            {**one, "age_ms": 0} if isinstance(one, dict) else one for one in examples
        ]
    return shown


def _histogram(site: Object, key: str, bounds: str) -> Object:
    """Counts by powers of two."""
    bins = _bins(site, key)
    return {bounds: [1 << power for power in bins], "counts": list(bins.values())}


def _sizes(site: Object) -> Object:
    """The sizes of blocks. The bytes of one size alone are not written: they are the site's.
    (Recordings of older versions have none.)"""
    counts = _bins(site, "sizes")
    held = site.get("bytes")
    if "size_bytes" in site:
        size_bytes = _bins(site, "size_bytes")
    elif len(counts) == 1 and type(held) is int:
        size_bytes = dict.fromkeys(counts, held)
    else:
        return _histogram(site, "sizes", "below_bytes")
    powers = sorted({**counts, **size_bytes})
    return {
        "below_bytes": [1 << power for power in powers],
        "counts": [counts.get(power, 0) for power in powers],
        "bytes": [size_bytes.get(power, 0) for power in powers],
    }


def _bins(site: Object, key: str) -> dict[int, int]:
    """What there is by powers of two, the smallest first."""
    try:
        bins = sorted((int(one), n) for one, n in Fields(site, "a site").counts(key).items())
    except ValueError:
        raise MalformedError(f"{key} of a site are not counted by powers of two") from None
    if any(not 0 <= power < _MOST_POWERS for power, _ in bins):
        raise MalformedError(f"{key} of a site are out of range")
    return dict(bins)


def aged(site: Site, state: Object, growth: Object | None, elapsed_ns: int) -> Site:
    """A site with what depends on the time of the report."""
    fields = Fields(state, "a site")
    oldest, newest = (fields.optional_integer(key) for key in ("oldest_at_ns", "newest_at_ns"))
    examples = site.examples
    if examples:
        times = [one.integer("at_ns") for one in fields.objects("examples")]
        examples = tuple(
            replace(one, age_ns=elapsed_ns - at) for one, at in zip(examples, times, strict=True)
        )
    grown: int | None = 0
    if growth is not None:
        key = "growth_count" if fields.is_null("bytes") else "growth_bytes"
        grown = Fields(growth, "a site").optional_integer(key)
    return replace(
        site,
        oldest_ns=None if oldest is None else elapsed_ns - oldest,
        newest_ns=None if newest is None else elapsed_ns - newest,
        growth_bytes=grown,
        examples=examples,
    )
