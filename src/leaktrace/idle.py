"""What was found out about the use of memory (--idle): how much of it is on pages that the process
has not touched for some time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class IdleShare:
    """The pages of a site that have been watched for the whole time; of a site with many pages,
    these are a sample. A page counts as used, whichever block in it was used."""

    looked_pages: int
    idle_pages: int  # of those, not touched
    looked_bytes: int  # of the site's blocks, within these pages
    idle_bytes: int


@dataclass(frozen=True)
class IdleInfo:
    """The watched pages of all sites together."""

    for_s: float  # a page is idle if it was not touched for so long
    watched_pages: int = 0
    known_pages: int = 0  # watched for that time
    idle_pages: int = 0
    watched_s: float = 0.0  # how long the longest-watched page has been
    age_s: float = 0.0  # how old the results are
    problems: tuple[str, ...] = ()  # what is not known, a sentence each
