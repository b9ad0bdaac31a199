"""What keys and reports change in a live view."""

from __future__ import annotations

from dataclasses import replace

from sample_reports import BUSY, CACHE_SITE, PARSE_SITE
from sample_sections import PAIRS

from leaktrace.live.sparkline import sparkline
from leaktrace.live.state import Action, View, missing_from
from leaktrace.memory import RegionBytes
from leaktrace.model import Report, ThreadStacks
from leaktrace.site import Site


def report(number: int, *sites: Site) -> Report:
    total = replace(BUSY.outstanding, bytes=sum(site.bytes for site in sites))
    return replace(BUSY, number=number, sites=sites, site_count=len(sites), outstanding=total)


SMALL = replace(PARSE_SITE, id="a" * 16, bytes=100, count=50, growth_bytes=7, oldest_ns=9)
LARGE = replace(CACHE_SITE, id="b" * 16, bytes=900, count=2, growth_bytes=-3, oldest_ns=900)


def press(view: View, *keys: str) -> list[Action | None]:
    return [view.press(key) for key in keys]


def ids(view: View) -> str:
    return "".join(site.id[0] for site in view.sites())


def test_sites_of_one_id_are_told_apart() -> None:
    """Two of the kernel differ by their cache only."""
    one, other = replace(SMALL, cache="dentry"), replace(SMALL, cache="inode", bytes=900)
    view = View()
    view.take(report(1, one, other))
    view.press("m")
    grown = replace(one, bytes=150)
    view.take(report(2, grown, other))
    assert [view.change(site) for site in (grown, other)] == [50, 0]
    assert [len(view.course(site)) for site in (grown, other)] == [2, 2]


def test_sorting() -> None:
    view = View()
    view.take(report(1, SMALL, LARGE))
    orders = []
    for _ in range(6):
        orders.append((view.order.value, ids(view)))
        view.press("s")
    assert orders == [
        ("report", "ab"),
        ("size", "ba"),
        ("count", "ab"),
        ("change", "ab"),
        ("age", "ba"),
        ("report", "ab"),
    ]


def test_filtering_as_it_is_typed() -> None:
    view = View()
    view.take(report(1, SMALL, LARGE))
    (name,) = [one.function for one in PARSE_SITE.stack.frames if one.function == "parse_header"]
    assert name is not None
    press(view, "/", *"PARSE_hq")  # q is a letter there
    assert ids(view) == ""
    press(view, "backspace")
    assert ids(view) == "a"
    press(view, "escape")
    assert ids(view) == "ab"
    press(view, "/", *"parse_h", "enter", "s")
    assert (view.filter, ids(view)) == ("parse_h", "a")
    press(view, "escape")
    assert ids(view) == "ba"
    press(view, "/", *"bbb", "enter")
    assert ids(view) == "b"


def test_the_selected_site_stays_selected() -> None:
    view = View()
    view.take(report(1, SMALL, LARGE))
    press(view, "down", "enter")
    assert (view.selected, view.expanded) == (LARGE.id, {LARGE.id})
    view.take(report(2, LARGE, SMALL))
    assert view.selected_index(view.sites()) == 0
    press(view, "left", "end", "right", "up", "up")
    assert (view.selected, view.expanded) == (LARGE.id, {SMALL.id})


def test_paused_reports_go_into_the_courses_only() -> None:
    view = View()
    view.take(report(1, SMALL))
    press(view, "p")
    view.take(report(2, replace(SMALL, bytes=200)))
    assert view.report is not None
    assert view.report.number == 1
    assert view.course(SMALL) == (100, 200)
    press(view, "p")
    assert view.report is not None
    assert view.report.number == 2


def test_a_course_has_gaps_where_a_site_was_not_in_the_report() -> None:
    view = View()
    for sites in ([SMALL, LARGE], [LARGE], [SMALL, LARGE]):
        view.take(report(1, *sites))
    assert view.course(SMALL) == (100, None, 100)
    assert sparkline(view.course(SMALL), 4) == " ▁ ▁"


def test_courses_of_sites_that_are_gone_are_forgotten() -> None:
    view = View()
    for number in range(200):
        view.take(report(number, replace(SMALL, id=f"{number:016}")))
    assert len(view._courses) <= 65


def test_changes_since_a_mark() -> None:
    view = View()
    assert press(view, "m", "w") == [None, None]
    assert view.message == "there is no report yet"
    all_sites = replace(report(1, SMALL), older_ms=0)
    view.take(all_sites)
    assert view.press("m") is Action.MARK
    view.take(report(2, replace(SMALL, bytes=150), LARGE))
    assert [view.change(site) for site in view.sites()] == [50, 900]
    # Where a report doesn't have all sites, nothing is known of the others.
    view.take(replace(all_sites, site_count=7))
    view.press("m")
    view.take(report(3, SMALL, LARGE))
    assert [view.change(site) for site in view.sites()] == [0, None]


def test_changes_since_a_mark_in_sections() -> None:
    """Each section says whether it had all its sites, and one that had none had all of them."""
    report_of_pairs = replace(PAIRS, older_ms=0)
    pair, *others = report_of_pairs.sections
    whole = replace(pair, older_ms=0, sites=(SMALL,), site_count=1)
    for section, changes in ((whole, [0, 900]), (replace(whole, site_count=2), [0, None])):
        view = View()
        view.take(replace(report_of_pairs, sections=(section, *others)))
        press(view, "m", "tab")
        later = replace(section, sites=(SMALL, LARGE), site_count=2)
        view.take(replace(report_of_pairs, number=2, sections=(later, *others)))
        assert [view.change(site) for site in view.sites()] == changes


def test_sites_that_create_threads_are_listed() -> None:
    stacks = ThreadStacks(RegionBytes(1, 8 << 20), (LARGE,), 1, 8 << 20)
    view = View()
    with_threads = replace(report(1, SMALL), site_count=2, thread_stacks=stacks, older_ms=0)
    view.take(with_threads)
    assert ids(view) == "ab"
    assert missing_from(with_threads) == 0
    view.press("m")
    view.take(
        replace(with_threads, thread_stacks=replace(stacks, sites=(replace(LARGE, bytes=950),)))
    )
    assert [view.change(site) for site in view.sites()] == [0, 50]


def test_sections() -> None:
    view = View()
    view.take(PAIRS)
    names = []
    for _ in range(len(PAIRS.sections) + 2):
        part = view.part()
        assert part is not None
        names.append(part.section)
        view.press("tab")
    assert names[1:-1] == [one.section for one in PAIRS.sections]
    assert names[0] == names[-1]


def test_keys_for_the_session() -> None:
    view = View()
    view.take(BUSY)
    assert press(view, "r", " ", "w", "W", "?", "x", "q") == [
        Action.REPORT,
        Action.REPORT,
        Action.SAVE_TEXT,
        Action.SAVE_JSON,
        None,
        None,
        Action.QUIT,
    ]


def test_sparklines() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 7], 4, blocks=False) == "  _@"
    assert sparkline([10**9, 10**9 + 1], 2) == "▁▁"
    assert sparkline([], 3) == "   "
    assert sparkline([5, 0, 5], 2) == "▁█"
    assert sparkline([1], 0) == ""
