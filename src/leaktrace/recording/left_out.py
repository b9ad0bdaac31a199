"""What a recording leaves out, because it may be secret: what is in the blocks of the target."""

from __future__ import annotations

from dataclasses import replace

from leaktrace.heap_report import BlockGroup, GroupKind, OlderBlocks
from leaktrace.model import Report


def without_contents(report: Report) -> Report:
    """The report without the contents of blocks. Their classes, and what they point to, stay."""
    if report.older_blocks:
        report = replace(report, older_blocks=tuple(map(_older, report.older_blocks)))
    if report.contents is None:
        return report
    sites = tuple(replace(site, contents=None) for site in report.sites)
    return replace(report, sites=sites, contents=None)


def _older(older: OlderBlocks) -> OlderBlocks:
    return replace(
        older,
        groups=tuple(map(_group, older.groups)),
        lost_groups=tuple(map(_group, older.lost_groups)),
    )


def _group(group: BlockGroup) -> BlockGroup:
    is_text = group.kind is GroupKind.TEXT
    return replace(group, name="" if is_text else group.name, text="")
