"""More files than may be open at once: the least recently used are closed, and opened again unless
they have changed."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.files import open_regular
from leaktrace.own.descriptors import POOL

LIMIT = 150  # of which most are reserved
FILES = 200


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def opened(path: Path) -> ElfObject:
    descriptor = open_regular(path)
    try:
        return ElfObject.open(descriptor, str(path), partial(open_regular, path))
    finally:
        os.close(descriptor)


@pytest.fixture
def objects(tmp_path: Path, few_descriptors: None) -> list[tuple[Path, ElfObject]]:
    paths = [tmp_path / f"object_{number}" for number in range(FILES)]
    for number, path in enumerate(paths):
        shutil.copy("/bin/true", path)
        with path.open("ab") as file:
            file.write(number.to_bytes(4, "little"))
    return [(path, opened(path)) for path in paths]


def last_bytes(elf: ElfObject) -> int:
    return int.from_bytes(elf.read(elf.file_size - 4, 4), "little")


def test_several_threads_read_their_own_files(objects: list[tuple[Path, ElfObject]]) -> None:
    """The number of a file that was closed to make room is soon another one's."""
    wrong: list[int] = []

    def read(start: int) -> None:
        for at in range(2000):
            number = (start + at * 7) % FILES
            if last_bytes(objects[number][1]) != number:
                wrong.append(number)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(3) as executor:
            for done in [executor.submit(read, start) for start in (0, 60, 120)]:
                done.result()
    finally:
        sys.setswitchinterval(before)
    assert wrong == []


def test_all_of_them_can_be_read(objects: list[tuple[Path, ElfObject]]) -> None:
    for _ in range(2):
        assert [last_bytes(elf) for _, elf in objects] == list(range(FILES))
    assert sum(elf.holds_file for _, elf in objects) <= LIMIT
    assert POOL.note()


def test_those_used_last_stay_open(objects: list[tuple[Path, ElfObject]]) -> None:
    first = objects[0][1]
    for _, elf in objects:
        last_bytes(elf)
        last_bytes(first)
    assert first.holds_file
    assert not objects[1][1].holds_file


@pytest.mark.parametrize("change", ["replaced", "appended to", "written over", "deleted"])
def test_a_file_that_has_changed_meanwhile_is_not_read(
    change: str, objects: list[tuple[Path, ElfObject]]
) -> None:
    path, elf = objects[0]
    assert not elf.holds_file
    size = elf.file_size
    match change:
        case "replaced":
            path.unlink()
            shutil.copy(objects[5][0], path)
        case "appended to":
            with path.open("ab") as file:
                file.write(b"more")
        case "written over":
            with path.open("r+b") as file:
                file.write(b"\x7fELF")
        case "deleted":
            path.unlink()
    with pytest.raises(ObjectFileError) as caught:
        elf.read(size - 4, 4)
    assert "closed to open other files" in caught.value.message
    assert [last_bytes(elf) for _, elf in objects[1:]] == list(range(1, FILES))


def test_what_is_collected_is_closed(objects: list[tuple[Path, ElfObject]]) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = count()
    objects.clear()
    assert count() < before
    assert count() < LIMIT - 20


def test_the_limit_is_raised_and_restored() -> None:
    code = (
        "from resource import RLIMIT_NOFILE, getrlimit; from leaktrace.own import descriptors\n"
        "hard = getrlimit(RLIMIT_NOFILE)[1]\n"
        "descriptors.raise_limit(); print(getrlimit(RLIMIT_NOFILE) == (hard, hard))\n"
        "descriptors.restore_limit(); print(getrlimit(RLIMIT_NOFILE) == (300, hard))\n"
    )
    hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4000)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))

    result = subprocess.run(
        [sys.executable, "-c", code], preexec_fn=limit, capture_output=True, text=True, check=True
    )
    assert result.stdout == "True\nTrue\n"
