"""The rooms for lists of mappings: no two processes share one, and none is lost."""

from __future__ import annotations

import random

import pytest

from leaktrace.unwind.placed import ListRoom, PlacedTables


def overlaps(one: ListRoom, other: ListRoom) -> bool:
    """Whether two rooms, of two lists each, have an entry in common."""
    return one.start < other.start + 2 * other.length and other.start < one.start + 2 * one.length


def test_one_process_has_all_of_the_room() -> None:
    tables = PlacedTables(longest_list=1000)
    room = tables.take_lists(1)
    assert room == ListRoom(0, 1000)
    assert tables.take_lists(1) is None


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 1000, 4000])
def test_a_list_is_long_enough(count: int) -> None:
    tables = PlacedTables(processes=4, longest_list=4096)
    room = tables.take_lists(count)
    assert room is not None
    assert room.length >= count
    assert 2 * room.length <= tables.mapping_room


def test_a_list_is_no_longer_than_the_longest() -> None:
    """More mappings than a list may have: those beyond are left out by the caller."""
    tables = PlacedTables(processes=4, longest_list=1000)
    room = tables.take_lists(5000)
    assert room is not None
    assert room.length == 1000


def test_every_process_gets_a_room() -> None:
    """With few mappings each, as many as there are slots."""
    tables = PlacedTables(processes=128)
    rooms = [tables.take_lists(100) for _ in range(128)]
    assert None not in rooms


def test_where_others_have_the_room_lists_are_shorter() -> None:
    tables = PlacedTables(processes=4, longest_list=1024)
    rooms = [tables.take_lists(10)]
    while (room := tables.take_lists(1024)) is not None:
        rooms.append(room)
    lengths = [room.length for room in rooms if room is not None]
    assert lengths == [256, 1024, 512, 256]
    assert 2 * sum(lengths) == tables.mapping_room


def test_rooms_are_given_back_whole() -> None:
    """In whichever order they come back: in the end the longest lists fit again."""
    tables = PlacedTables(processes=8, longest_list=2048)
    generator = random.Random(7)
    for _ in range(20):
        rooms = []
        while (room := tables.take_lists(generator.choice([10, 300, 600, 2000]))) is not None:
            rooms.append(room)
        assert rooms
        assert not any(overlaps(one, other) for at, one in enumerate(rooms) for other in rooms[:at])
        assert all(one.start + 2 * one.length <= tables.mapping_room for one in rooms)
        generator.shuffle(rooms)
        for room in rooms:
            tables.give_back(room)
    fresh = PlacedTables(processes=8, longest_list=2048)
    again, before = [], []
    while (room := tables.take_lists(2048)) is not None:
        again.append(room)
    while (room := fresh.take_lists(2048)) is not None:
        before.append(room)
    assert again == before


def test_a_room_in_the_middle_is_used_again() -> None:
    tables = PlacedTables(processes=4, longest_list=512)
    rooms = []
    while (room := tables.take_lists(1)) is not None:
        rooms.append(room)
    tables.give_back(rooms[1])
    assert tables.take_lists(1) == rooms[1]
    assert tables.take_lists(1) is None
