"""What a live view shows, and how reports and keys change it. It knows no terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from leaktrace import units
from leaktrace.analysis.comparing.matching import Key, identity
from leaktrace.analysis.views import parts as views
from leaktrace.model import Report
from leaktrace.report.sections import section_name, shown_parts
from leaktrace.site import Site

COURSE = 64  # reports that a sparkline can go back
_MOST_MESSAGES = 50
_LONGEST_FILTER = 60


class Order(StrEnum):
    """What the sites are sorted by."""

    REPORT = "report"  # as the report has them: by growth, unless --sort says otherwise
    SIZE = "size"
    COUNT = "count"
    CHANGE = "change"  # since the previous report, or the mark
    AGE = "age"


class Action(StrEnum):
    """What a key asks for that isn't done in the view itself."""

    QUIT = "quit"
    REPORT = "report"
    SAVE_TEXT = "save as text"
    SAVE_JSON = "save as JSON"
    MARK = "mark"
    REDRAW = "redraw"


@dataclass(frozen=True)
class Mark:
    """A report that later ones are compared with."""

    number: int
    elapsed_s: float
    total_bytes: int
    by_site: dict[Key, int]  # bytes
    whole: frozenset[str | None]  # the sections of which the report had all sites


@dataclass
class View:
    """The state of a live view. `report` is the one that is shown; while it is paused, newer ones
    only go into the courses."""

    report: Report | None = None
    newest: Report | None = None
    is_paused: bool = False
    order: Order = Order.REPORT
    filter: str = ""
    typed: str | None = None  # a filter that is being typed; None: no
    selected: str | None = None  # the id of a site
    expanded: set[str] = field(default_factory=set)
    shows_help: bool = False
    section: int = 0
    marks: list[Mark] = field(default_factory=list)
    messages: deque[str] = field(default_factory=lambda: deque(maxlen=_MOST_MESSAGES))
    message_count: int = 0  # of all that came, also before those
    message: str = ""  # until the next key
    page: int = 10  # how many sites a page has; the screen knows it
    totals: deque[int] = field(default_factory=lambda: deque(maxlen=COURSE))
    resident: deque[int | None] = field(default_factory=lambda: deque(maxlen=COURSE))
    _courses: dict[Key, deque[int | None]] = field(default_factory=dict)

    def take(self, report: Report) -> None:
        """A report has come."""
        self.newest = report
        if not self.is_paused:
            self.report = report
        self.totals.append(report.outstanding.bytes)
        self.resident.append(None if report.resident is None else report.resident.bytes)
        seen: dict[Key, int] = {}
        for part in shown_parts(report):
            for site in sites_of(part):
                seen[_key(part, site)] = _figure(part, site)
        for one, course in list(self._courses.items()):
            course.append(seen.pop(one, None))
            if all(value is None for value in course):
                del self._courses[one]
        for one, figure in seen.items():
            self._courses[one] = deque([figure], maxlen=COURSE)

    def tell(self, message: str) -> None:
        """A message about the run, which would be on stderr without the view."""
        self.messages.append(message)
        self.message_count += 1
        self.message = message

    def course(self, site: Site) -> Sequence[int | None]:
        """What a site has held, report by report."""
        part = self.part()
        return () if part is None else tuple(self._courses.get(_key(part, site), ()))

    def part(self) -> Report | None:
        """The report, or the section of it that is shown."""
        if self.report is None:
            return None
        parts = shown_parts(self.report)
        return parts[self.section % len(parts)]

    def sites(self) -> list[Site]:
        """Those that are shown, in their order."""
        part = self.part()
        if part is None:
            return []
        words = (self.filter if self.typed is None else self.typed).lower()
        sites = [site for site in sites_of(part) if not words or _has(site, words)]
        match self.order:
            case Order.REPORT:
                return sites
            case Order.SIZE:
                return sorted(sites, key=lambda site: -site.held_bytes)
            case Order.COUNT:
                return sorted(sites, key=lambda site: -site.count)
            case Order.AGE:
                return sorted(sites, key=lambda site: -(site.oldest_ns or 0))
            case Order.CHANGE:
                return sorted(sites, key=lambda site: -(self.change(site) or 0))

    def change(self, site: Site) -> int | None:
        """By how much a site has grown since the mark, or without one since the previous report.
        None: not known."""
        if not self.marks:
            return site.growth_bytes
        mark = self.marks[-1]
        part = self.part()
        if part is None:
            return None
        before = mark.by_site.get(_key(part, site), 0 if part.section in mark.whole else None)
        return None if before is None else site.bytes - before

    def press(self, key: str) -> Action | None:
        """A key. Returns what it asks for."""
        self.message = ""
        if self.typed is not None:
            self._type(key)
            return None
        if self.shows_help:
            self.shows_help = False
            return Action.QUIT if key == "q" else None
        match key:
            case "q":
                return Action.QUIT
            case "s":
                orders = list(Order)
                self.order = orders[(orders.index(self.order) + 1) % len(orders)]
            case "/":
                self.typed = self.filter
            case "escape":
                self.filter = ""
            case "p":
                self.is_paused = not self.is_paused
                self.report = self.newest
            case "r" | " ":
                return Action.REPORT
            case "m":
                return self._mark()
            case "w" | "W":
                if self.report is None:
                    self.message = "there is no report yet"
                    return None
                return Action.SAVE_TEXT if key == "w" else Action.SAVE_JSON
            case "?" | "h":
                self.shows_help = True
            case "tab":
                self._next_section()
            case "enter" | "right" | "left":
                self._expand(key)
            case _:
                self._move(key)
        return None

    def _type(self, key: str) -> None:
        assert self.typed is not None
        if key == "enter":
            self.filter, self.typed = self.typed, None
        elif key == "escape":
            self.typed = None
        elif key == "backspace":
            self.typed = self.typed[:-1]
        elif len(key) == 1 and len(self.typed) < _LONGEST_FILTER:
            self.typed += key

    def _mark(self) -> Action | None:
        if self.report is None:
            self.message = "there is no report yet"
            return None
        report = self.report
        by_site = {
            _key(part, site): site.bytes for part in shown_parts(report) for site in sites_of(part)
        }
        whole = frozenset(part.section for part in views.parts_of(report) if _has_all(part))
        total = report.outstanding.bytes
        number = len(self.marks) + 1
        self.marks.append(Mark(number, report.elapsed_s, total, by_site, whole))
        at = units.elapsed(report.elapsed_s)
        self.message = f"mark {number} at {at}: changes are shown since then"
        return Action.MARK

    def _next_section(self) -> None:
        if self.report is None:
            return
        parts = shown_parts(self.report)
        if len(parts) == 1:
            self.message = "there is one section only"
        self.section = (self.section + 1) % len(parts)

    def _expand(self, key: str) -> None:
        sites = self.sites()
        at = self.selected_index(sites)
        if at is None:
            return
        one = sites[at].id
        self.selected = one
        if key == "left" or (key == "enter" and one in self.expanded):
            self.expanded.discard(one)
        else:
            self.expanded.add(one)

    def _move(self, key: str) -> None:
        steps = {
            "up": -1,
            "k": -1,
            "down": 1,
            "j": 1,
            "pageup": -self.page,
            "pagedown": self.page,
            "home": -(1 << 30),
            "end": 1 << 30,
        }
        sites = self.sites()
        at = self.selected_index(sites)
        if key in steps and at is not None:
            self.selected = sites[min(max(at + steps[key], 0), len(sites) - 1)].id

    def selected_index(self, sites: Sequence[Site]) -> int | None:
        """Where the selected site is among these, or the first one; None: there are none."""
        if not sites:
            return None
        return next((at for at, site in enumerate(sites) if site.id == self.selected), 0)


def sites_of(part: Report) -> list[Site]:
    """The sites of a report; with --by process, those of each process."""
    return [site for one in part.by_process or (part,) for site in views.sites_of(one)]


def missing_from(part: Report) -> int:
    """How many sites hold memory and are not among those."""
    return sum(views.not_listed(one) for one in part.by_process or (part,))


def name_of(part: Report) -> str:
    """What a section is called; "" for the report itself."""
    return section_name(part) if part.section is not None else ""


def _key(part: Report, site: Site) -> Key:
    """What a site is among those of all sections and processes."""
    pids = (
        one.target.pid
        for one in part.by_process
        if any(site is other for other in views.sites_of(one))
    )
    return part.section, next(pids, None), *identity(site)


def _has_all(part: Report) -> bool:
    """Whether a site that it doesn't list holds nothing."""
    return part.older_ms == 0 and not missing_from(part)


def _figure(part: Report, site: Site) -> int:
    return site.count if part.is_counted else site.held_bytes


def _has(site: Site, words: str) -> bool:
    """Whether a frame, or the beginning of its id, has these words in lower case."""
    if site.id.startswith(words):
        return True
    for frame in site.stack.frames:
        source = "" if frame.source is None else f"{frame.source.file}:{frame.source.line}"
        if any(
            words in name.lower() for name in (frame.function or "", frame.module or "", source)
        ):
            return True
    return False
