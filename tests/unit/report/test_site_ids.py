"""Ids of sites in text: short, and each begins the id of one site only."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from sample_reports import BUSY, PARSE_SITE

from leaktrace.report.site_ids import ShortIds, shown_id

# Many begin alike.
ids = st.text("01", min_size=16, max_size=16)


@given(st.lists(ids, max_size=20), ids)
def test_a_short_id_is_that_of_one_site(known: list[str], mentioned: str) -> None:
    short = ShortIds(known)
    for one in (*known, mentioned):
        shown = short.of(one)
        assert one.startswith(shown)
        assert len(shown) >= 6
        assert {other for other in known if other.startswith(shown)} <= {one}
        if len(shown) > 6:  # no digit more than it needs
            assert any(other.startswith(shown[:-1]) for other in known if other != one)


def test_sites_of_sections_count_too() -> None:
    other = replace(PARSE_SITE, id="6f1d2a90c41b0000")
    section = replace(BUSY, section="pages", sites=(other,), sections=())
    short = ShortIds.of_report(replace(BUSY, sections=(section,)))
    assert short.of(PARSE_SITE.id) == "6f1d2a90c41b7"
    assert short.of(other.id) == "6f1d2a90c41b0"
    assert ShortIds.of_report(BUSY).of(PARSE_SITE.id) == "6f1d2a"
    assert shown_id(PARSE_SITE.id, None) == PARSE_SITE.id
