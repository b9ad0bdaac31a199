"""Which sites of two reports are the same call site.

    id      the same stack: build IDs and offsets in files (analysis/site_id.py), whatever the
            addresses are
    code    the same, except for code without a file (JIT), which counts by name
    names   where the build of an object differs: its functions by name, the rest by address
    lines   several sites have the same names, and their lines of source tell them apart in both
    merged  several have the same names, and nothing says which is which: taken together

Sites are never matched by names if the build is the same: then different offsets are different
sites. Code that differs and has no name can't be compared. A site is matched once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from leaktrace.analysis.comparing.same_names import function_name, object_name
from leaktrace.site import Frame, Site

Key = tuple[Hashable, ...]


class Rule(StrEnum):
    """By what a site of one report was found in the other."""

    ID = "id"
    CODE = "code"
    NAMES = "names"
    LINES = "lines"
    MERGED = "merged"
    NONE = "none"  # it is in one of them only


@dataclass(frozen=True)
class Match:
    """The sites of both reports that are one call site; one of the two may be empty. More than one
    on a side: taken together."""

    base: tuple[Site, ...]
    new: tuple[Site, ...]
    rule: Rule
    is_comparable: bool = True  # False: code without names, in builds that differ


@dataclass(frozen=True)
class Side:
    """The sites of one report, and the name of its process."""

    sites: Sequence[Site]
    command: str


def match(base: Side, new: Side, *, same_run: bool = False) -> list[Match]:
    """Each site of both is in one match. `same_run`: of the same processes, so that other ids are
    other sites."""
    matches, base_left, new_left = _by_id(base.sites, new.sites, same_run)
    if same_run:
        matches += [Match((site,), (), Rule.NONE) for site in base_left]
        return matches + [Match((), (site,), Rule.NONE) for site in new_left]
    # The files that both runs have mapped, as far as their sites say.
    same = _builds(base.sites) & _builds(new.sites)
    keys = _Keys(same, base.command), _Keys(same, new.command)
    groups: defaultdict[Key, tuple[list[Site], list[Site]]] = defaultdict(lambda: ([], []))
    for side, sites in enumerate((base_left, new_left)):
        for site in sites:
            key = keys[side].of(site)
            if key is None:
                base_sites, new_sites = ((), (site,)) if side else ((site,), ())
                matches.append(Match(base_sites, new_sites, Rule.NONE, is_comparable=False))
            else:
                groups[key][side].append(site)
    for ones, others in groups.values():
        matches += _group(ones, others, keys)
    return matches


def _by_id(
    base: Sequence[Site], new: Sequence[Site], same_run: bool
) -> tuple[list[Match], list[Site], list[Site]]:
    """Those with the same id, and the others. An id that several sites of a report have (of the
    kernel: by cache and context) needs the same of these."""
    by_id: defaultdict[Key, list[Site]] = defaultdict(list)
    for site in new:
        by_id[identity(site)].append(site)
    matches, left = [], []
    for site in base:
        found = by_id[identity(site)]
        if found and (same_run or _agree(site, found[-1])):
            matches.append(Match((site,), (found.pop(),), Rule.ID))
        else:
            left.append(site)
    return matches, left, [site for sites in by_id.values() for site in sites]


def identity(site: Site) -> Key:
    """What tells a site of a report apart: those of the kernel may share a stack, and so an id."""
    return site.id, *_variant(site)


def _variant(site: Site) -> Key:
    """What tells sites of one stack apart."""
    return site.cache, site.context, site.state


def _agree(one: Site, other: Site) -> bool:
    """Whether nothing contradicts that the same id of two runs is the same code. A file without a
    build ID is identified by its path, at which another build may be; code without a file and
    without a name by its address, at which anything may be."""
    pairs = zip(*(physical(site.stack.frames) for site in (one, other)), strict=False)
    for mine, theirs in pairs:
        if mine.build_id is not None:
            continue
        if mine.module_offset is None and mine.function is None:
            return False
        names = [one and function_name(one) for one in (mine.function, theirs.function)]
        if None not in names and names[0] != names[1]:
            return False
    # Without frames (lost stacks) it is the same, too: all that could not be stored.
    return True


def physical(frames: Iterable[Frame]) -> Iterable[Frame]:
    """Without those that the compiler inlined."""
    return (frame for frame in frames if not frame.inlined)


def _builds(sites: Iterable[Site]) -> set[str]:
    return {
        frame.build_id
        for site in sites
        for frame in site.stack.frames
        if frame.build_id is not None
    }


class _Keys:
    """Keys of the sites of one report, by which those of two reports are compared."""

    def __init__(self, same_builds: set[str], command: str) -> None:
        self._same = same_builds
        self._command = command
        self._known: dict[int, Key | None] = {}  # by identity of frames, which stacks share

    def of(self, site: Site) -> Key | None:
        """None if a frame can't be compared."""
        keys = [*_variant(site)]
        for frame in site.stack.frames:
            if frame.inlined and self.is_same(frame):
                continue  # the address says which there are
            key = self._of_frame(frame)
            if key is None:
                return None
            keys.append(key)
        return tuple(keys)

    def rule(self, site: Site) -> Rule:
        """By what this site is compared."""
        changed = any(
            f.module_offset is not None and not self.is_same(f) for f in site.stack.frames
        )
        return Rule.NAMES if changed else Rule.CODE

    def is_same(self, frame: Frame) -> bool:
        """Whether the frame's file is the same in both runs."""
        return frame.build_id is not None and frame.build_id in self._same

    def _of_frame(self, frame: Frame) -> Key | None:
        if id(frame) not in self._known:
            self._known[id(frame)] = self._new(frame)
        return self._known[id(frame)]

    def _new(self, frame: Frame) -> Key | None:
        if self.is_same(frame) and frame.module_offset is not None:
            return ("at", frame.build_id, frame.module_offset)
        if frame.function is None:
            return None
        where = "" if frame.module is None else object_name(frame.module, self._command)
        return ("in", where, function_name(frame.function))


def _group(ones: list[Site], others: list[Site], keys: tuple[_Keys, _Keys]) -> Iterable[Match]:
    """Sites that have the same key."""
    if not ones or not others:
        return [
            *(Match((site,), (), Rule.NONE) for site in ones),
            *(Match((), (site,), Rule.NONE) for site in others),
        ]
    rule = keys[0].rule(ones[0])
    if len(ones) == len(others) == 1:
        return [Match((ones[0],), (others[0],), rule)]
    names = [[_names(site) for site in sites] for sites in (ones, others)]
    if _is_one_to_one(*map(Counter[Key | None], names)):
        by_name = dict(zip(names[1], others, strict=True))
        return [
            Match((site,), (by_name[name],), rule)
            for name, site in zip(names[0], ones, strict=True)
        ]
    # Lines tell them apart only if both have the same ones: where some have moved, one that is in
    # both may be another call by now.
    lines = [[_lines(site) for site in sites] for sites in (ones, others)]
    if None not in (*lines[0], *lines[1]) and _is_one_to_one(*map(Counter, lines)):
        by_line = dict(zip(lines[1], others, strict=True))
        pairs = zip(lines[0], ones, strict=True)
        return [Match((site,), (by_line[line],), Rule.LINES) for line, site in pairs]
    return [Match(tuple(ones), tuple(others), Rule.MERGED)]


def _is_one_to_one(one: Counter[Key | None], other: Counter[Key | None]) -> bool:
    return one == other and set(one.values()) == {1}


def _names(site: Site) -> Key:
    """The names of a stack with the numbers that builds may give anew."""
    return tuple(frame.function for frame in site.stack.frames)


def _lines(site: Site) -> Key | None:
    """The lines of source of a stack, as far as they are known; None if none is. Of files only the
    names, because builds are made in different folders."""
    lines = [
        None if frame.source is None else (frame.source.file.rpartition("/")[2], frame.source.line)
        for frame in site.stack.frames
    ]
    return tuple(lines) if any(lines) else None
