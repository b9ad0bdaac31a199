"""The blocks that are older than a trace (--heap), from their JSON objects: the other way of
report/older.py."""

from __future__ import annotations

from leaktrace.heap_report import Amount, BlockGroup, GroupKind, OlderBlocks
from leaktrace.reach import LostShare
from leaktrace.recording.fields import Fields
from leaktrace.recording.site_values import lost_from


def older_from(fields: Fields) -> OlderBlocks:
    """Those of one process. Raises MalformedError."""
    pause_ms = fields.optional_number("pause_ms")
    return OlderBlocks(
        pid=fields.integer("pid"),
        command=fields.text("command"),
        allocator=fields.text("allocator", ""),
        in_use=fields.optional("in_use", _amount),
        lost=fields.optional("lost", lost_from) or LostShare(),
        groups=tuple(_group(one) for one in fields.objects("groups")),
        lost_groups=tuple(_group(one) for one in fields.objects("lost_groups")),
        group_count=fields.integer("group_count"),
        lost_group_count=fields.integer("lost_group_count"),
        unjudged_count=fields.integer("unjudged_count"),
        age_s=fields.number("age_s"),
        pause_s=None if pause_ms is None else pause_ms / 1000,
        read_bytes=fields.integer("read_bytes"),
        unread_bytes=fields.integer("unread_bytes"),
        took_s=fields.number("took_s"),
        may_be_newer=fields.texts("may_be_newer"),
        problem=fields.text("problem", ""),
    )


def _amount(fields: Fields) -> Amount:
    return Amount(fields.integer("count"), fields.integer("bytes"))


def _group(fields: Fields) -> BlockGroup:
    return BlockGroup(
        kind=fields.word("kind", GroupKind, GroupKind.OTHER),
        name=fields.text("name", ""),
        text=fields.text("text", ""),
        least_bytes=fields.integer("least_bytes"),
        most_bytes=fields.integer("most_bytes"),
        amount=_amount(fields),
        lost=lost_from(fields.inner("lost")),
        sample_address=fields.address("sample_address"),
        since_first=fields.optional("since_first", _amount),
        since_previous=fields.optional("since_previous", _amount),
        lost_since_first=fields.optional("lost_since_first", _amount),
    )
